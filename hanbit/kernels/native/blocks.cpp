// Products with weights in ggml's blocks: integers by integers, then the block's scales. Compiled once for each
// instruction set, as kernels.cpp.
//
// A block of a panel: the numbers of 16 outputs, interleaved so that a vector holds 4 inputs of each, then their scales
// (fp16) and, of Q4_1, their least numbers. One load of the input feeds all 16, and no sum across a vector is needed.

#include "blocks.h"

#include "lanes.h"
#include "vector.h"

namespace HANBIT_SET {
namespace {

using hanbit::BLOCK;
using hanbit::Kind;
using hanbit::PANEL;
using hanbit::Side;

constexpr int PARTS = PANEL / LANES;
constexpr int ROWS_AT_ONCE = LANES == 16 ? 8 : LANES == 1 ? 1 : 4;  // what the registers hold
constexpr int64_t NIBBLES = PANEL * BLOCK / 2, BYTES = PANEL * BLOCK;

// ROWS quantised rows of the input
template <int ROWS>
struct Input {
    const int8_t* numbers[ROWS];
    const Side* sides[ROWS];

    Input(const uint8_t* input, int64_t in) {
        for (int row = 0; row < ROWS; ++row, input += hanbit::quantised_bytes(in)) {
            numbers[row] = reinterpret_cast<const int8_t*>(input);
            sides[row] = reinterpret_cast<const Side*>(input + in);
        }
    }
};

// Integer products of one block, less the zero of its numbers
template <Kind KIND, int ROWS>
inline void dot_block(const uint8_t* weights, const int8_t* const* numbers, const Side* const* sides, int64_t block,
                      Ints* dots) {
    if constexpr (KIND == hanbit::Q8_0) {
        int32_t minus_8_sums[ROWS];
        for (int row = 0; row < ROWS; ++row) minus_8_sums[row] = sides[row][block].minus_8_sums;
        dot_bytes<ROWS>(weights, numbers, minus_8_sums, dots);
    } else {
        for (int row = 0; row < ROWS; ++row)
            dots[row] = KIND == hanbit::Q4_0 ? same(sides[row][block].minus_8_sums) : same(0);
        dot_nibbles<ROWS>(weights, numbers, dots);
    }
}

// One panel by ROWS rows. A row's sums are taken block after block, whatever ROWS is: sequences answered together get
// the numbers they would get alone.
template <Kind KIND, int ROWS>
void panel(const uint8_t* weight, const Input<ROWS>& input, int64_t num_blocks, int outs, float* output,
           int64_t output_stride) {
    constexpr int64_t SCALES = KIND == hanbit::Q8_0 ? BYTES : NIBBLES, LEAST = SCALES + PANEL * 2;
    Floats sums[PARTS][ROWS];
    for (int part = 0; part < PARTS; ++part)
        for (int row = 0; row < ROWS; ++row) sums[part][row] = same(0.0f);
    for (int64_t block = 0; block < num_blocks; ++block, weight += hanbit::panel_block_bytes(KIND)) {
        const int8_t* numbers[ROWS];
        for (int row = 0; row < ROWS; ++row) numbers[row] = input.numbers[row] + block * BLOCK;
        for (int part = 0; part < PARTS; ++part) {
            Ints dots[ROWS];
            dot_block<KIND, ROWS>(weight + part * LANES * 4, numbers, input.sides, block, dots);
            const Floats scales = halves(weight + SCALES + part * LANES * 2);
            for (int row = 0; row < ROWS; ++row)
                sums[part][row] = add_product(sums[part][row], floats(dots[row]),
                                              times(scales, same(input.sides[row][block].scale)));
            if constexpr (KIND == hanbit::Q4_1) {
                const Floats least = halves(weight + LEAST + part * LANES * 2);
                for (int row = 0; row < ROWS; ++row)
                    sums[part][row] = add_product(sums[part][row], least, same(input.sides[row][block].scaled_sum));
            }
        }
    }
    for (int row = 0; row < ROWS; ++row, output += output_stride) {
        float found[PANEL];
        float* to = outs == PANEL ? output : found;
        for (int part = 0; part < PARTS; ++part) store(to + part * LANES, sums[part][row]);
        for (int out = 0; to == found && out < outs; ++out) output[out] = found[out];
    }
}

template <Kind KIND, int ROWS>
void panels(const uint8_t* input, const uint8_t* weight, int64_t in, int64_t outs, float* output,
            int64_t output_stride) {
    const Input<ROWS> rows(input, in);
    const int64_t num_blocks = in / BLOCK;
    for (int64_t first = 0; first < outs; first += PANEL) {
        const int count = static_cast<int>(outs - first < PANEL ? outs - first : PANEL);
        panel<KIND, ROWS>(weight, rows, num_blocks, count, output + first, output_stride);
        weight += num_blocks * hanbit::panel_block_bytes(KIND);
    }
}

// The whole product: as many rows at once as can be, then fewer
template <Kind KIND, int ROWS>
void product_of(const uint8_t* input, int64_t rows, const uint8_t* weight, int64_t in, int64_t outs, float* output,
                int64_t output_stride) {
    for (; rows >= ROWS; rows -= ROWS, input += ROWS * hanbit::quantised_bytes(in), output += ROWS * output_stride)
        panels<KIND, ROWS>(input, weight, in, outs, output, output_stride);
    if constexpr (ROWS > 1)
        if (rows > 0) product_of<KIND, ROWS / 2>(input, rows, weight, in, outs, output, output_stride);
}

// To the nearest whole number, for |x| < 2^22: what is behind the point does not fit beside 1.5 2^23
inline Vector rounded(Vector x) {
    const Vector large = Vector{} + 12582912.0f;
    return (x + large) - large;
}

typedef int8_t Bytes __attribute__((vector_size(WIDTH)));

inline Vector absolute(Vector x) { return x < 0.0f ? -x : x; }

void quantise_block(const float* input, int8_t* numbers, Side* side) {
    constexpr int COUNT = BLOCK / WIDTH;
    Vector parts[COUNT], most = {}, strange = {};
    for (int i = 0; i < COUNT; ++i) {
        parts[i] = load(input + i * WIDTH);
        const Vector size = absolute(parts[i]);
        most = size > most ? size : most;
        strange += parts[i] - parts[i];  // NaN where a number is not finite
    }
    float largest = 0;
    for (int lane = 0; lane < WIDTH; ++lane) largest = most[lane] > largest ? most[lane] : largest;
    const float found = sum(strange);
    const bool is_finite = found == 0;
    const float factor = is_finite && largest > 1e-30f ? 127.0f / largest : 0.0f;
    Integers sums = {};
    for (int i = 0; i < COUNT; ++i) {
        const Vector nearest = is_finite ? rounded(parts[i] * factor) : Vector{};
        const Integers whole = __builtin_convertvector(nearest, Integers);
        sums += whole;
        const Bytes bytes = __builtin_convertvector(whole, Bytes);
        memcpy(numbers + i * WIDTH, &bytes, sizeof bytes);
    }
    int32_t total = 0;
    for (int lane = 0; lane < WIDTH; ++lane) total += sums[lane];
    side->scale = (factor == 0.0f ? 0.0f : largest / 127.0f) + found;
    side->scaled_sum = side->scale * static_cast<float>(total);
    side->minus_8_sums = -8 * total;
    side->pad = 0;
}

}  // namespace

void quantise(const float* input, int64_t in, uint8_t* output) {
    Side* sides = reinterpret_cast<Side*>(output + in);
    for (int64_t block = 0; block < in / BLOCK; ++block)
        quantise_block(input + block * BLOCK, reinterpret_cast<int8_t*>(output) + block * BLOCK, sides + block);
}

void block_product(Kind kind, const uint8_t* input, int64_t rows, const uint8_t* weight, int64_t in, int64_t outs,
                   float* output, int64_t output_stride) {
    switch (kind) {
        case hanbit::Q4_0:
            return product_of<hanbit::Q4_0, ROWS_AT_ONCE>(input, rows, weight, in, outs, output, output_stride);
        case hanbit::Q4_1:
            return product_of<hanbit::Q4_1, ROWS_AT_ONCE>(input, rows, weight, in, outs, output, output_stride);
        default:
            return product_of<hanbit::Q8_0, ROWS_AT_ONCE>(input, rows, weight, in, outs, output, output_stride);
    }
}

void block_row(Kind kind, const uint8_t* weight, int64_t in, int64_t out, float* output) {
    const int64_t num_blocks = in / BLOCK, lane = out % PANEL, scales = kind == hanbit::Q8_0 ? BYTES : NIBBLES;
    weight += out / PANEL * num_blocks * hanbit::panel_block_bytes(kind);
    for (int64_t block = 0; block < num_blocks; ++block, weight += hanbit::panel_block_bytes(kind)) {
        uint16_t scale, least = 0;
        memcpy(&scale, weight + scales + lane * 2, sizeof scale);
        if (kind == hanbit::Q4_1) memcpy(&least, weight + scales + PANEL * 2 + lane * 2, sizeof least);
        for (int64_t i = 0; i < BLOCK; ++i) {
            const int64_t within = kind == hanbit::Q8_0 ? i : i % 16;
            const uint8_t byte = weight[within / 4 * CHUNK + lane * 4 + within % 4];
            const int nibble = i < 16 ? byte & 15 : byte >> 4;
            const int number = kind == hanbit::Q8_0 ? static_cast<int8_t>(byte) : kind == hanbit::Q4_0 ? nibble - 8 : nibble;
            output[block * BLOCK + i] = half_to_float(scale) * static_cast<float>(number) + half_to_float(least);
        }
    }
}

}  // namespace HANBIT_SET
