// Products with weights in ggml's blocks: integers by integers, then the block's scales. Compiled once for each
// instruction set, as kernels.cpp.
//
// A block of a panel: the numbers of 16 outputs, interleaved so that a vector holds 4 inputs of each, then their scales
// (fp16) and, of Q4_1 and Q5_1, their least numbers. One load of the input feeds all 16, and no sum across a vector is
// needed.

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
constexpr int64_t NIBBLES = PANEL * BLOCK / 2, BYTES = PANEL * BLOCK;

// What the registers hold
constexpr int rows_at_once(Kind kind) {
    if (LANES == 1) return 1;
    return LANES == 16 ? 8 : kind == hanbit::Q6_K ? 2 : 4;
}

constexpr bool is_of_5_bits(Kind kind) {
    return kind == hanbit::Q5_0 || kind == hanbit::Q5_1 || kind == hanbit::Q5_K;
}

constexpr bool has_least_halves(Kind kind) { return kind == hanbit::Q4_1 || kind == hanbit::Q5_1; }

// Scales and least numbers of 6 bits, by two fp16 numbers
constexpr bool has_least_bytes(Kind kind) { return kind == hanbit::Q4_K || kind == hanbit::Q5_K; }

// Bytes of a block's numbers
constexpr int64_t number_bytes(Kind kind) {
    if (kind == hanbit::Q8_0) return BYTES;
    return is_of_5_bits(kind) ? NIBBLES + CHUNK : kind == hanbit::Q6_K ? NIBBLES + 2 * CHUNK : NIBBLES;
}

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

// Of one block: where it is in the panel and in the rows
template <int ROWS>
struct Place {
    const uint8_t* weight;  // of the first lane, numbers that lie in chunks
    const int8_t* numbers[ROWS];
    const Side* sides[ROWS];
};

// Integer products of one block, less the zero of its numbers
template <Kind KIND, int ROWS>
inline void dot_block(const Place<ROWS>& at, Ints* dots) {
    constexpr int ZERO_OVER_8 = KIND == hanbit::Q4_0 ? 1 : KIND == hanbit::Q5_0 ? 2 : 0;
    if constexpr (KIND == hanbit::Q8_0) {
        int32_t minus_8_sums[ROWS];
        for (int row = 0; row < ROWS; ++row) minus_8_sums[row] = at.sides[row]->minus_8_sums;
        dot_bytes<ROWS>(at.weight, at.numbers, minus_8_sums, dots);
    } else {
        for (int row = 0; row < ROWS; ++row) dots[row] = same(ZERO_OVER_8 * at.sides[row]->minus_8_sums);
        if constexpr (is_of_5_bits(KIND))
            dot_fives<ROWS>(at.weight, at.weight + NIBBLES, at.numbers, dots);
        else
            dot_nibbles<ROWS>(at.weight, at.numbers, dots);
    }
}

// `scales` and `head` point at those of the first lane, 2 bytes each.
template <Kind KIND, int ROWS>
inline void add_block(const Place<ROWS>& at, const uint8_t* scales, Floats* sums) {
    Ints dots[ROWS];
    dot_block<KIND, ROWS>(at, dots);
    const Floats factors = halves(scales);
    for (int row = 0; row < ROWS; ++row)
        sums[row] = add_product(sums[row], floats(dots[row]), times(factors, same(at.sides[row]->scale)));
    if constexpr (has_least_halves(KIND)) {
        const Floats least = halves(scales + PANEL * 2);
        for (int row = 0; row < ROWS; ++row)
            sums[row] = add_product(sums[row], least, same(at.sides[row]->scaled_sum));
    }
}

// A block's scale and least number are 6 bits by an fp16 number, which is exact in float32.
template <Kind KIND, int ROWS>
inline void add_block_of_k(const Place<ROWS>& at, const uint8_t* scales, const uint8_t* head, Floats* sums) {
    Ints dots[ROWS];
    dot_block<KIND, ROWS>(at, dots);
    const Floats factors = times(halves(head), unsigned_bytes(scales));
    const Floats least = times(halves(head + PANEL * 2), unsigned_bytes(scales + PANEL));
    for (int row = 0; row < ROWS; ++row) {
        sums[row] = add_product(sums[row], floats(dots[row]), times(factors, same(at.sides[row]->scale)));
        sums[row] = add_product(sums[row], least, same(-at.sides[row]->scaled_sum));
    }
}

// The first 16 inputs have one scale, the others another.
template <int ROWS>
inline void add_block_of_q6_k(const Place<ROWS>& at, const uint8_t* scales, const uint8_t* head, Floats* sums) {
    Ints first[ROWS], second[ROWS];
    for (int row = 0; row < ROWS; ++row) {  // the zero is 32
        const Side& side = *at.sides[row];
        first[row] = same(4 * side.minus_8_first_sums);
        second[row] = same(4 * (side.minus_8_sums - side.minus_8_first_sums));
    }
    dot_sixes<ROWS>(at.weight, at.weight + NIBBLES, at.numbers, first, second);
    const Floats all = halves(head), one = signed_bytes(scales), other = signed_bytes(scales + PANEL);
    for (int row = 0; row < ROWS; ++row) {
        const Floats both = add_product(times(floats(first[row]), one), floats(second[row]), other);
        sums[row] = add_product(sums[row], both, times(all, same(at.sides[row]->scale)));
    }
}

// One panel by ROWS rows. A row's sums are taken block after block, whatever ROWS is: sequences answered together get
// the numbers they would get alone.
template <Kind KIND, int ROWS>
void panel(const uint8_t* weight, const Input<ROWS>& input, int64_t num_blocks, int outs, float* output,
           int64_t output_stride) {
    Floats sums[PARTS][ROWS];
    for (int part = 0; part < PARTS; ++part)
        for (int row = 0; row < ROWS; ++row) sums[part][row] = same(0.0f);
    const uint8_t* head = weight;
    for (int64_t block = 0; block < num_blocks; ++block, weight += hanbit::block_bytes(KIND)) {
        if constexpr (hanbit::head_bytes(KIND) > 0)
            if (block % hanbit::BLOCKS_OF_K == 0) head = weight, weight += hanbit::head_bytes(KIND);
        Place<ROWS> at;
        for (int row = 0; row < ROWS; ++row) {
            at.numbers[row] = input.numbers[row] + block * BLOCK;
            at.sides[row] = input.sides[row] + block;
        }
        for (int part = 0; part < PARTS; ++part) {
            at.weight = weight + part * LANES * 4;
            const uint8_t* scales = weight + number_bytes(KIND);
            if constexpr (has_least_bytes(KIND))
                add_block_of_k<KIND, ROWS>(at, scales + part * LANES, head + part * LANES * 2, sums[part]);
            else if constexpr (KIND == hanbit::Q6_K)
                add_block_of_q6_k<ROWS>(at, scales + part * LANES, head + part * LANES * 2, sums[part]);
            else
                add_block<KIND, ROWS>(at, scales + part * LANES * 2, sums[part]);
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
        weight += hanbit::panel_bytes(KIND, num_blocks);
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

typedef int8_t Bytes __attribute__((vector_size(WIDTH)));

inline Vector absolute(Vector x) { return x < 0.0f ? -x : x; }

void quantise_block(const float* input, int8_t* numbers, Side* side) {
    constexpr int COUNT = BLOCK / WIDTH;
    static_assert(COUNT >= 2, "halves of a block are whole vectors");
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
    const float factor = is_finite && largest > SMALLEST ? LARGEST_INT8 / largest : 0.0f;
    Integers sums[2] = {};  // of the first 16 numbers, and of the others
    for (int i = 0; i < COUNT; ++i) {
        const Vector nearest = is_finite ? (parts[i] * factor + ROUNDER) - ROUNDER : Vector{};
        const Integers whole = __builtin_convertvector(nearest, Integers);
        sums[i / (COUNT / 2)] += whole;
        const Bytes bytes = __builtin_convertvector(whole, Bytes);
        memcpy(numbers + i * WIDTH, &bytes, sizeof bytes);
    }
    int32_t first = 0, second = 0;
    for (int lane = 0; lane < WIDTH; ++lane) first += sums[0][lane], second += sums[1][lane];
    side->scale = (factor == 0.0f ? 0.0f : largest / LARGEST_INT8) + found;
    side->scaled_sum = side->scale * static_cast<float>(first + second);
    side->minus_8_sums = -8 * (first + second);
    side->minus_8_first_sums = -8 * first;
}

}  // namespace

void quantise(const float* input, int64_t in, uint8_t* output) {
    Side* sides = reinterpret_cast<Side*>(output + in);
    for (int64_t block = 0; block < in / BLOCK; ++block)
        quantise_block(input + block * BLOCK, reinterpret_cast<int8_t*>(output) + block * BLOCK, sides + block);
}

void block_product(Kind kind, const uint8_t* input, int64_t rows, const uint8_t* weight, int64_t in, int64_t outs,
                   float* output, int64_t output_stride) {
    using Product = void (*)(const uint8_t*, int64_t, const uint8_t*, int64_t, int64_t, float*, int64_t);
    static const Product BY_KIND[hanbit::NUM_KINDS] = {
        nullptr,  // floats are kernels.cpp's
        product_of<hanbit::Q4_0, rows_at_once(hanbit::Q4_0)>, product_of<hanbit::Q4_1, rows_at_once(hanbit::Q4_1)>,
        product_of<hanbit::Q8_0, rows_at_once(hanbit::Q8_0)>, product_of<hanbit::Q5_0, rows_at_once(hanbit::Q5_0)>,
        product_of<hanbit::Q4_K, rows_at_once(hanbit::Q4_K)>, product_of<hanbit::Q6_K, rows_at_once(hanbit::Q6_K)>,
        nullptr, nullptr,  // of 16 bits
        product_of<hanbit::Q5_1, rows_at_once(hanbit::Q5_1)>, product_of<hanbit::Q5_K, rows_at_once(hanbit::Q5_K)>,
    };
    BY_KIND[kind](input, rows, weight, in, outs, output, output_stride);
}

namespace {

inline float half_at(const uint8_t* from) {
    uint16_t half;
    memcpy(&half, from, sizeof half);
    return half_to_float(half);
}

// Input i of a block in a panel's lane, as the integer that stands there, less its zero
inline int number_at(Kind kind, const uint8_t* block, int64_t lane, int64_t i) {
    const int64_t within = kind == hanbit::Q8_0 ? i : i % 16, chunk = within / 4, byte = lane * 4 + within % 4;
    const int stored = block[chunk * CHUNK + byte];
    if (kind == hanbit::Q8_0) return static_cast<int8_t>(stored);
    const int nibble = i < 16 ? stored & 15 : stored >> 4, half = i < 16 ? 0 : 4;
    const uint8_t* rest = block + NIBBLES;
    if (is_of_5_bits(kind))
        return (nibble | (rest[byte] >> (half + chunk) & 1) << 4) - (kind == hanbit::Q5_0 ? 16 : 0);
    switch (kind) {
        case hanbit::Q4_0: return nibble - 8;
        case hanbit::Q6_K: return (nibble | (rest[chunk / 2 * CHUNK + byte] >> (half + chunk % 2 * 2) & 3) << 4) - 32;
        default: return nibble;
    }
}

// Scale and least number of a lane; of Q6_K the first or second half's
inline void scale_at(Kind kind, const uint8_t* scales, const uint8_t* head, int64_t lane, int half, float* scale,
                     float* least) {
    *least = 0;
    if (has_least_bytes(kind)) {
        *scale = half_at(head + lane * 2) * scales[lane];
        *least = -half_at(head + PANEL * 2 + lane * 2) * scales[PANEL + lane];
    } else if (kind == hanbit::Q6_K) {
        *scale = half_at(head + lane * 2) * static_cast<int8_t>(scales[half * PANEL + lane]);
    } else {
        *scale = half_at(scales + lane * 2);
        if (has_least_halves(kind)) *least = half_at(scales + PANEL * 2 + lane * 2);
    }
}

}  // namespace

void block_row(Kind kind, const uint8_t* weight, int64_t in, int64_t out, float* output) {
    const int64_t num_blocks = in / BLOCK, lane = out % PANEL;
    weight += out / PANEL * hanbit::panel_bytes(kind, num_blocks);
    const uint8_t* head = weight;
    for (int64_t block = 0; block < num_blocks; ++block, weight += hanbit::block_bytes(kind)) {
        if (block % hanbit::BLOCKS_OF_K == 0) head = weight, weight += hanbit::head_bytes(kind);
        for (int64_t i = 0; i < BLOCK; ++i) {
            float scale, least;
            scale_at(kind, weight + number_bytes(kind), head, lane, i / 16, &scale, &least);
            output[block * BLOCK + i] = scale * static_cast<float>(number_at(kind, weight, lane, i)) + least;
        }
    }
}

}  // namespace HANBIT_SET
