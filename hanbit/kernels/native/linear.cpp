#include "linear.h"

#include <string.h>

#include <algorithm>

namespace hanbit {
namespace {

// Long enough that a thread's turn at the counter costs nothing beside it, short enough that the last chunk, for which
// the others wait, is over soon: 3 microseconds at 12 GB/s a core.
constexpr int64_t CHUNK_BYTES = 36 << 10;
constexpr int64_t OUTS_AT_ONCE = 12;  // what the tiles of every instruction set divide (kernels.cpp)
constexpr int64_t ROWS_QUANTISED_AT_ONCE = 8;

bool is_float(const HanbitMatrix& matrix) { return matrix.kind == FLOAT32; }

int64_t outs_per_chunk(const HanbitMatrix& matrix, int64_t in) {
    if (is_float(matrix)) return OUTS_AT_ONCE * std::max<int64_t>(1, CHUNK_BYTES / static_cast<int64_t>(OUTS_AT_ONCE * in * sizeof(float)));
    const int64_t panel_bytes = in / BLOCK * panel_block_bytes(static_cast<Kind>(matrix.kind));
    return PANEL * std::max<int64_t>(1, CHUNK_BYTES / panel_bytes);
}

int chunks_of(const HanbitMatrix& matrix, int64_t in) {
    const int64_t each = outs_per_chunk(matrix, in);
    return static_cast<int>((matrix.out + each - 1) / each);
}

// Outputs first .. first + outs of a matrix
void multiply(const Kernels& kernels, const HanbitMatrix& matrix, const Rows& rows, int64_t in, int64_t first,
              int64_t outs, float* output, int64_t output_stride) {
    if (is_float(matrix)) {
        const float* weight = static_cast<const float*>(matrix.weight) + first * in;
        kernels.product(rows.floats, in, rows.count, weight, in, outs, output, output_stride);
        return;
    }
    const Kind kind = static_cast<Kind>(matrix.kind);
    const int64_t offset = first / PANEL * (in / BLOCK) * panel_block_bytes(kind);
    kernels.block_product(kind, rows.blocks, rows.count, static_cast<const uint8_t*>(matrix.weight) + offset, in, outs,
                          output, output_stride);
}

}  // namespace

int num_chunks(const HanbitLinear& linear) {
    int count = 0;
    for (int64_t i = 0; i < linear.num_matrices; ++i) count += chunks_of(linear.matrices[i], linear.in);
    return count;
}

bool takes_blocks(const HanbitLinear& linear) {
    return !std::all_of(linear.matrices, linear.matrices + linear.num_matrices, is_float);
}

void do_chunk(const Kernels& kernels, const HanbitLinear& linear, const Rows& rows, int index, float* output) {
    const HanbitMatrix* matrix = linear.matrices;
    int64_t before = 0;  // outputs of the matrices to the left
    for (int chunks; index >= (chunks = chunks_of(*matrix, linear.in)); index -= chunks) before += matrix++->out;
    const int64_t each = outs_per_chunk(*matrix, linear.in), first = index * each;
    const int64_t outs = std::min(each, matrix->out - first), place = before + first;
    multiply(kernels, *matrix, rows, linear.in, first, outs, output + place, linear.out);
    if (linear.bias == nullptr) return;
    for (int64_t row = 0; row < rows.count; ++row)
        for (int64_t out = place; out < place + outs; ++out) output[row * linear.out + out] += linear.bias[out];
}

void take_row(const Kernels& kernels, const HanbitMatrix& matrix, int64_t in, int64_t index, float* output) {
    if (is_float(matrix))
        memcpy(output, static_cast<const float*>(matrix.weight) + index * in, in * sizeof(float));
    else
        kernels.block_row(static_cast<Kind>(matrix.kind), static_cast<const uint8_t*>(matrix.weight), in, index, output);
}

LinearWork::LinearWork(const Kernels& kernels, const HanbitLinear& linear, const float* input, int64_t rows,
                       float* output)
    : kernels_(kernels), linear_(linear), input_(input), rows_(rows), output_(output) {
    if (takes_blocks(linear)) blocks_.resize_bytes(rows * quantised_bytes(linear.in));
}

int LinearWork::num_chunks(int phase) const {
    if (!is_quantising(phase)) return hanbit::num_chunks(linear_);
    return static_cast<int>((rows_ + ROWS_QUANTISED_AT_ONCE - 1) / ROWS_QUANTISED_AT_ONCE);
}

void LinearWork::chunk(int phase, int index) {
    if (!is_quantising(phase)) return do_chunk(kernels_, linear_, {input_, blocks_.bytes(), rows_}, index, output_);
    const int64_t first = index * ROWS_QUANTISED_AT_ONCE, end = std::min(first + ROWS_QUANTISED_AT_ONCE, rows_);
    for (int64_t row = first; row < end; ++row)
        kernels_.quantise(input_ + row * linear_.in, linear_.in, blocks_.bytes() + row * quantised_bytes(linear_.in));
}

}  // namespace hanbit
