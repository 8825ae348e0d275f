#include "linear.h"

#include <algorithm>

namespace hanbit {
namespace {

// A core reads memory fastest where it goes on: with 144 KiB at a time two cores make 3 to 8% more tokens than with 36.
// But the last chunk is one that the others wait for, and each thread should have CHUNKS_EACH.
constexpr int64_t SMALLEST_CHUNK = 36 << 10, LARGEST_CHUNK = 144 << 10, CHUNKS_EACH = 2;  // bytes
constexpr int64_t OUTS_AT_ONCE = 12;  // what the tiles of every instruction set divide (kernels.cpp)
constexpr int64_t ROWS_QUANTISED_AT_ONCE = 8;

Kind kind_of(const HanbitMatrix& matrix) { return static_cast<Kind>(matrix.kind); }

bool is_float(const HanbitMatrix& matrix) { return float_bytes(kind_of(matrix)) > 0; }

// Of so many outputs of a matrix of plain floats
int64_t bytes_of_floats(const HanbitMatrix& matrix, int64_t in, int64_t outs) {
    return outs * in * float_bytes(kind_of(matrix));
}

int64_t bytes_of_panel(const HanbitMatrix& matrix, int64_t in) {
    return panel_bytes(kind_of(matrix), in / BLOCK);
}

int64_t bytes_of(const HanbitMatrix& matrix, int64_t in) {
    return is_float(matrix) ? bytes_of_floats(matrix, in, matrix.out)
                            : (matrix.out + PANEL - 1) / PANEL * bytes_of_panel(matrix, in);
}

int64_t chunk_bytes(const HanbitLinear& linear, int num_threads) {
    int64_t all = 0;
    for (int64_t i = 0; i < linear.num_matrices; ++i) all += bytes_of(linear.matrices[i], linear.in);
    return std::clamp(all / (CHUNKS_EACH * num_threads), SMALLEST_CHUNK, LARGEST_CHUNK);
}

int64_t outs_per_chunk(const HanbitMatrix& matrix, int64_t in, int64_t num_bytes) {
    const int64_t outs = is_float(matrix) ? OUTS_AT_ONCE : PANEL;
    const int64_t bytes = is_float(matrix) ? bytes_of_floats(matrix, in, outs) : bytes_of_panel(matrix, in);
    return outs * std::max<int64_t>(1, num_bytes / bytes);
}

// Some outputs of one matrix
struct Outputs {
    const HanbitMatrix& matrix;
    int64_t first, count, place;  // place: of the first one among the outputs of all matrices
};

Outputs outputs_of(const HanbitLinear& linear, int num_threads, int index) {
    const int64_t num_bytes = chunk_bytes(linear, num_threads);
    int64_t before = 0;  // outputs of the matrices to the left
    for (const HanbitMatrix* matrix = linear.matrices;; before += matrix++->out) {
        const int64_t each = outs_per_chunk(*matrix, linear.in, num_bytes), first = index * each;
        if (first < matrix->out) return {*matrix, first, std::min(each, matrix->out - first), before + first};
        index -= static_cast<int>((matrix->out + each - 1) / each);
    }
}

const uint8_t* weight_at(const HanbitMatrix& matrix, int64_t in, int64_t out) {
    const int64_t bytes =
        is_float(matrix) ? bytes_of_floats(matrix, in, out) : out / PANEL * bytes_of_panel(matrix, in);
    return static_cast<const uint8_t*>(matrix.weight) + bytes;
}

void multiply(const Kernels& kernels, const Outputs& outs, const Rows& rows, int64_t in, float* output,
              int64_t output_stride) {
    const HanbitMatrix& matrix = outs.matrix;
    const uint8_t* weight = weight_at(matrix, in, outs.first);
    if (is_float(matrix))
        kernels.product(kind_of(matrix), rows.floats, in, rows.count, weight, in, outs.count, output, output_stride);
    else
        kernels.block_product(kind_of(matrix), rows.blocks, rows.count, weight, in, outs.count, output, output_stride);
}

}  // namespace

int num_chunks(const HanbitLinear& linear, int num_threads) {
    const int64_t num_bytes = chunk_bytes(linear, num_threads);
    int64_t count = 0;
    for (int64_t i = 0; i < linear.num_matrices; ++i) {
        const int64_t each = outs_per_chunk(linear.matrices[i], linear.in, num_bytes);
        count += (linear.matrices[i].out + each - 1) / each;
    }
    return static_cast<int>(count);
}

bool takes_blocks(const HanbitLinear& linear) {
    return !std::all_of(linear.matrices, linear.matrices + linear.num_matrices, is_float);
}

void do_chunk(const Kernels& kernels, const HanbitLinear& linear, const Rows& rows, int num_threads, int index,
              float* output) {
    const Outputs outs = outputs_of(linear, num_threads, index);
    multiply(kernels, outs, rows, linear.in, output + outs.place, linear.out);
    if (linear.bias == nullptr) return;
    for (int64_t row = 0; row < rows.count; ++row)
        for (int64_t out = outs.place; out < outs.place + outs.count; ++out)
            output[row * linear.out + out] += linear.bias[out];
}

void take_row(const Kernels& kernels, const HanbitMatrix& matrix, int64_t in, int64_t index, float* output) {
    if (is_float(matrix))
        kernels.float_row(kind_of(matrix), matrix.weight, in, index, output);
    else
        kernels.block_row(kind_of(matrix), static_cast<const uint8_t*>(matrix.weight), in, index, output);
}

LinearWork::LinearWork(const Kernels& kernels, const HanbitLinear& linear, const float* input, int64_t rows,
                       float* output, int num_threads)
    : kernels_(kernels), linear_(linear), input_(input), rows_(rows), output_(output), num_threads_(num_threads) {
    if (takes_blocks(linear)) blocks_.resize_bytes(rows * quantised_bytes(linear.in));
}

int LinearWork::num_chunks(int phase) const {
    if (!is_quantising(phase)) return hanbit::num_chunks(linear_, num_threads_);
    return static_cast<int>((rows_ + ROWS_QUANTISED_AT_ONCE - 1) / ROWS_QUANTISED_AT_ONCE);
}

void LinearWork::chunk(int phase, int index) {
    if (!is_quantising(phase))
        return do_chunk(kernels_, linear_, {input_, blocks_.bytes(), rows_}, num_threads_, index, output_);
    const int64_t first = index * ROWS_QUANTISED_AT_ONCE, end = std::min(first + ROWS_QUANTISED_AT_ONCE, rows_);
    for (int64_t row = first; row < end; ++row)
        kernels_.quantise(input_ + row * linear_.in, linear_.in, blocks_.bytes() + row * quantised_bytes(linear_.in));
}

}  // namespace hanbit
