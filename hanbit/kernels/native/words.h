// Texts to token ids by their words: which are known, and which the tokenizers library has to be asked for.
// tokenizers/words.py says what a word is, and why the ids are those of the whole text.
#pragma once

#include <stdint.h>
#include <stdlib.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

struct HanbitSpan {
    int64_t begin, end;  // bytes of the texts
};

// Of one batch of texts; Python sees it (kernels/structs.py). `ids` and `ends` are there once the new words are learnt.
struct HanbitReading {
    const HanbitSpan* new_words;  // [num_new], no word twice
    int64_t num_new;
    const int32_t* ids;   // [num_ids], of all texts
    const int64_t* ends;  // [texts], where in `ids` each ends
    int64_t num_ids;
};

namespace hanbit {

struct Hole {
    int64_t after;  // so many ids of known words
    int64_t word;   // the new word whose ids belong here, or TEXT_ENDS
};
constexpr int64_t TEXT_ENDS = -1;

struct Reading : HanbitReading {
    const char* texts;
    std::vector<HanbitSpan> words;
    std::vector<int32_t> known, all;
    std::vector<Hole> holes;
    std::vector<int64_t> text_ends;
};

// Words with their ids, of fixed size. One thread at a time adds, any number look up meanwhile: what they see is whole.
class Table {
  public:
    explicit Table(int64_t most_words);

    // [number of bytes, number of ids, ids, bytes], or null
    const int32_t* find(std::string_view word) const;

    // False: there is no room. A word that is long, or meets too many others in its place, is not kept.
    bool add(std::string_view word, const int32_t* ids, int64_t num_ids);

  private:
    struct Free {
        void operator()(void* memory) const { ::free(memory); }
    };
    std::atomic<uint64_t>* slot(uint64_t hash, int64_t step) const { return &slots_[(hash + step) & mask_]; }

    uint64_t mask_;
    int64_t most_words_, room_, num_words_ = 0, used_ = 1;
    std::unique_ptr<std::atomic<uint64_t>[], Free> slots_;  // half a hash and a place in `records_`; 0: empty
    std::unique_ptr<int32_t[], Free> records_;
};

// Threads may share it, each with readings of its own.
class Words {
  public:
    Words(bool by_gpt2, int64_t most_words) : by_gpt2_(by_gpt2), most_words_(most_words) {}

    // texts: one after another in UTF-8, `ends` [num_texts] in bytes; they must outlive the reading. A text that is
    // not `cut` is one word.
    Reading* read(const char* texts, const int64_t* ends, const bool* cut, int64_t num_texts);

    // ids: of the reading's new words one after another, each up to its end in `ends`. Once full, begins anew.
    void learn(Reading& reading, const int32_t* ids, const int64_t* ends);

  private:
    std::shared_ptr<Table> table();

    const bool by_gpt2_;
    const int64_t most_words_;
    std::mutex mutex_;  // of what is below, and of adding to it; a reading goes on with the table it began with
    std::shared_ptr<Table> table_;
};

}  // namespace hanbit
