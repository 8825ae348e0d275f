// The kernels that are compiled once for each instruction set (kernels.cpp), as a table of functions.
#pragma once

#include <stdint.h>

namespace hanbit {

// How the numbers of a matrix lie. Blocks are ggml's, 32 inputs each, in panels of 16 outputs (kernels/blocks.py).
enum Kind : int64_t { FLOAT32, Q4_0, Q4_1, Q8_0, Q5_0, Q4_K, Q6_K, FLOAT16, BFLOAT16, Q5_1, Q5_K, NUM_KINDS };
constexpr int64_t BLOCK = 32, PANEL = 16, BLOCKS_OF_K = 8;  // of K: 8 blocks have fp16 scales for their blocks' scales

// Of a block of a quantised input, after all of a row's numbers (int8): number i is about scale numbers[i]. Sums are of
// the numbers, all or the first 16; the zero of Q4_0's weights is 8, others' a multiple of it.
struct Side {
    float scale, scaled_sum;
    int32_t minus_8_sums, minus_8_first_sums;
};
constexpr int64_t quantised_bytes(int64_t in) { return in + in / BLOCK * static_cast<int64_t>(sizeof(Side)); }

// How a head of a key or a value lies in the cache: float32; or int8 and a float32 that these are to be multiplied with
enum Kept : int64_t { FLOATS, INT8 };
constexpr int64_t kept_bytes(Kept kept, int64_t head_dim) {
    constexpr int64_t FLOAT_BYTES = sizeof(float);
    return kept == INT8 ? head_dim + FLOAT_BYTES : head_dim * FLOAT_BYTES;
}

// What attention keeps of the positions it has seen: softmax's largest score, its sum, and the sum of values so far.
// The two numbers are followed in memory by `head_dim` floats.
struct Seen {
    float largest, sum;
    float* values() { return reinterpret_cast<float*>(this + 1); }
};

struct Kernels {
    const char* name;
    // output[row][out] = sum over i of input[row][i] weight[out][i] for `outs` rows of a weight [.., in] of floats of
    // this kind, computed in float32
    void (*product)(Kind kind, const float* input, int64_t input_stride, int64_t rows, const void* weight, int64_t in,
                    int64_t outs, float* output, int64_t output_stride);
    // Row `out` of a weight of floats, as float32 [in]
    void (*float_row)(Kind kind, const void* weight, int64_t in, int64_t out, float* output);
    // A row of `in` floats, whole blocks, as int8 numbers and their sides; NaN or infinity makes its block's scale NaN
    void (*quantise)(const float* input, int64_t in, uint8_t* output);
    // As `product`, for blocks: input is quantised rows, as many as one likes; weight begins with a panel
    void (*block_product)(Kind kind, const uint8_t* input, int64_t rows, const uint8_t* weight, int64_t in,
                          int64_t outs, float* output, int64_t output_stride);
    // Row `out` of a weight of blocks, as floats [in]
    void (*block_row)(Kind kind, const uint8_t* weight, int64_t in, int64_t out, float* output);
    // output[i] = silu(gate[i]) up[i]
    void (*swiglu)(const float* gate, const float* up, int64_t count, float* output);
    // output = input / sqrt(mean(input^2) + epsilon) weight
    void (*rms_norm)(const float* input, const float* weight, float epsilon, int64_t width, float* output);
    // Pairs (i, i + half) of a head turned by the angles with these cosines and sines
    void (*rotate)(float* head, const float* cosines, const float* sines, int64_t half);
    // A head as it is kept; of int8 NaN or infinity makes what it is multiplied with NaN
    void (*keep)(Kept kept, const float* head, int64_t head_dim, uint8_t* into);
    // Queries [head_dim] look at the same `count` keys and values, which begin `places[..]` bytes after `keys` and
    // `values`; `seen` of each is carried on
    void (*attend)(Kept kept, int64_t num_queries, const float* const* queries, const uint8_t* keys,
                   const uint8_t* values, const int64_t* places, int64_t count, int64_t head_dim, float scale,
                   Seen* const* seen);
    // The first of the largest numbers, or -1 where one is not finite (-inf is: it forbids a token)
    int64_t (*largest)(const float* numbers, int64_t count);
};

// Of a number of plain floats; 0 of what lies in blocks
constexpr int64_t float_bytes(Kind kind) {
    return kind == FLOAT32 ? 4 : kind == FLOAT16 || kind == BFLOAT16 ? 2 : 0;
}

// Bytes of all outputs of a panel: a block's numbers (of more than 4 bits and less than 8 the lower 4, then the rest),
// then its scales and, of Q4_1, Q5_1, Q4_K and Q5_K, least numbers
constexpr int64_t block_bytes(Kind kind) {
    switch (kind) {
        case Q4_0: return PANEL * (16 + 2);
        case Q4_1: return PANEL * (16 + 2 + 2);
        case Q5_0: return PANEL * (16 + 4 + 2);
        case Q5_1: return PANEL * (16 + 4 + 2 + 2);
        case Q4_K: return PANEL * (16 + 1 + 1);
        case Q5_K: return PANEL * (16 + 4 + 1 + 1);
        case Q6_K: return PANEL * (16 + 8 + 2);
        default: return PANEL * (32 + 2);
    }
}

// What comes before 8 blocks of K: scales of scales, of Q4_K and Q5_K those of least numbers too
constexpr int64_t head_bytes(Kind kind) {
    return kind == Q4_K || kind == Q5_K ? PANEL * 4 : kind == Q6_K ? PANEL * 2 : 0;
}

constexpr int64_t panel_bytes(Kind kind, int64_t num_blocks) {
    return num_blocks * block_bytes(kind) + num_blocks / BLOCKS_OF_K * head_bytes(kind);
}

// The widest set of instructions that this processor has (`name` null), or the one of that name; null: not here.
const Kernels* find_kernels(const char* name);

}  // namespace hanbit
