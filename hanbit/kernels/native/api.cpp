// What Python calls, by ctypes (hanbit/kernels/library.py). Nothing here throws but for want of memory.

#include <stdint.h>

#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "decoder.h"
#include "reading.h"
#include "words.h"

#define HANBIT_EXPORT extern "C" __attribute__((visibility("default")))

using hanbit::Kernels;

// Digest of the sources this was built from
HANBIT_EXPORT const char* hanbit_sources() { return HANBIT_SOURCES; }

// The kernels of an instruction set; null name: the best this processor has; null: it has not that one
HANBIT_EXPORT const Kernels* hanbit_kernels(const char* name) { return hanbit::find_kernels(name); }
HANBIT_EXPORT const char* hanbit_name(const Kernels* kernels) { return kernels->name; }

HANBIT_EXPORT void hanbit_linear(const Kernels* kernels, const HanbitLinear* linear, const float* input, int64_t rows,
                                 float* output, int32_t num_threads) {
    hanbit::LinearWork work(*kernels, *linear, input, rows, output, num_threads);
    hanbit::Team::instance().run(work, num_threads);
}

// Rows of a matrix, [count, in]
HANBIT_EXPORT void hanbit_take_rows(const Kernels* kernels, const HanbitMatrix* matrix, int64_t in,
                                    const int64_t* indices, int64_t count, float* output) {
    for (int64_t row = 0; row < count; ++row)
        hanbit::take_row(*kernels, *matrix, in, indices[row], output + row * in);
}

HANBIT_EXPORT hanbit::Step* hanbit_step_new(const Kernels* kernels, const HanbitDecoder* decoder) {
    return new hanbit::Step(*kernels, *decoder);
}

HANBIT_EXPORT void hanbit_step_run(hanbit::Step* step, const int64_t* tokens, const int64_t* positions,
                                   const int32_t* const* blocks, int64_t rows, const int64_t* wanted,
                                   int64_t num_wanted, float* logits, int32_t num_threads) {
    step->run({tokens, positions, blocks, rows, wanted, num_wanted}, logits, num_threads);
}

HANBIT_EXPORT void hanbit_step_free(hanbit::Step* step) { delete step; }

// Ask for pages of 2 MiB in memory that nothing has been written to: a core then reads it a quarter faster, for it
// looks up fewer addresses and its prefetcher stops at fewer borders. A wish: where it is not granted, nothing changes.
HANBIT_EXPORT void hanbit_use_huge_pages(void* memory, int64_t num_bytes) {
#if defined(__linux__)
    constexpr uintptr_t PAGE = 4096;
    const uintptr_t first = (reinterpret_cast<uintptr_t>(memory) + PAGE - 1) / PAGE * PAGE;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + num_bytes) / PAGE * PAGE;
    if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#else
    (void)memory, (void)num_bytes;
#endif
}

// All of the numbers, as one exclusive or
HANBIT_EXPORT uint64_t hanbit_read(const uint64_t* numbers, int64_t count, int32_t num_threads) {
    hanbit::ReadWork work(numbers, count);
    hanbit::Team::instance().run(work, num_threads);
    return work.found();
}

// Single kernels, for rows that lie one after another

HANBIT_EXPORT void hanbit_quantise(const Kernels* kernels, const float* input, int64_t in, uint8_t* output) {
    kernels->quantise(input, in, output);
}

HANBIT_EXPORT void hanbit_rms_norm(const Kernels* kernels, const float* input, const float* weight, float epsilon,
                                   int64_t width, float* output) {
    kernels->rms_norm(input, weight, epsilon, width, output);
}

HANBIT_EXPORT void hanbit_rotate(const Kernels* kernels, float* head, const float* cosines, const float* sines,
                                 int64_t half) {
    kernels->rotate(head, cosines, sines, half);
}

HANBIT_EXPORT void hanbit_swiglu(const Kernels* kernels, const float* gate, const float* up, int64_t count,
                                 float* output) {
    kernels->swiglu(gate, up, count, output);
}

HANBIT_EXPORT void hanbit_keep(const Kernels* kernels, int64_t kept, const float* head, int64_t head_dim,
                               uint8_t* into) {
    kernels->keep(static_cast<hanbit::Kept>(kept), head, head_dim, into);
}

// queries [num_queries, head_dim]; seen [num_queries, 2 + head_dim]
HANBIT_EXPORT void hanbit_attend(const Kernels* kernels, int64_t kept, int64_t num_queries, const float* queries,
                                 const uint8_t* keys, const uint8_t* values, const int64_t* places, int64_t count,
                                 int64_t head_dim, float scale, float* seen) {
    std::vector<const float*> query(num_queries);
    std::vector<hanbit::Seen*> seen_by(num_queries);
    for (int64_t i = 0; i < num_queries; ++i) {
        query[i] = queries + i * head_dim;
        seen_by[i] = reinterpret_cast<hanbit::Seen*>(seen + i * (2 + head_dim));
    }
    kernels->attend(static_cast<hanbit::Kept>(kept), num_queries, query.data(), keys, values, places, count, head_dim,
                    scale, seen_by.data());
}

HANBIT_EXPORT int64_t hanbit_largest(const Kernels* kernels, const float* numbers, int64_t count) {
    return kernels->largest(numbers, count);
}

// Texts to token ids by their words (words.h)

HANBIT_EXPORT hanbit::Words* hanbit_words_new(bool by_gpt2, int64_t most_words) {
    return new hanbit::Words(by_gpt2, most_words);
}

HANBIT_EXPORT void hanbit_words_free(hanbit::Words* words) { delete words; }

HANBIT_EXPORT HanbitReading* hanbit_words_read(hanbit::Words* words, const char* texts, const int64_t* ends,
                                               const bool* cut, int64_t num_texts) {
    return words->read(texts, ends, cut, num_texts);
}

HANBIT_EXPORT void hanbit_words_learn(hanbit::Words* words, HanbitReading* reading, const int32_t* ids,
                                      const int64_t* ends) {
    words->learn(*static_cast<hanbit::Reading*>(reading), ids, ends);
}

HANBIT_EXPORT void hanbit_reading_free(HanbitReading* reading) { delete static_cast<hanbit::Reading*>(reading); }
