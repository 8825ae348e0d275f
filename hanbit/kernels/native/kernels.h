// The kernels that are compiled once for each instruction set (kernels.cpp), as a table of functions.
#pragma once

#include <stdint.h>

namespace hanbit {

constexpr int MOST_ROWS = 8;  // rows of one product; more are a matter for a matrix library

// What attention keeps of the positions it has seen: softmax's largest score, its sum, and the sum of values so far.
// The two numbers are followed in memory by `head_dim` floats.
struct Seen {
    float largest, sum;
    float* values() { return reinterpret_cast<float*>(this + 1); }
};

struct Kernels {
    const char* name;
    // output[row][out] = sum over i of input[row][i] weight[out][i] for `outs` rows of a weight [.., in]
    void (*product)(const float* input, int64_t input_stride, int rows, const float* weight, int64_t in, int64_t outs,
                    float* output, int64_t output_stride);
    // output[i] = silu(gate[i]) up[i]
    void (*swiglu)(const float* gate, const float* up, int64_t count, float* output);
    // output = input / sqrt(mean(input^2) + epsilon) weight
    void (*rms_norm)(const float* input, const float* weight, float epsilon, int64_t width, float* output);
    // Pairs (i, i + half) of a head turned by the angles with these cosines and sines
    void (*rotate)(float* head, const float* cosines, const float* sines, int64_t half);
    // One query [head_dim] looks at `count` keys and values, `stride` floats apart; `seen` is carried on
    void (*attend)(const float* query, const float* keys, const float* values, int64_t stride, int64_t count,
                   int64_t head_dim, float scale, Seen* seen);
    // The first of the largest numbers, or -1 where one is not finite (-inf is: it forbids a token)
    int64_t (*largest)(const float* numbers, int64_t count);
};

// The widest set of instructions that this processor has (`name` null), or the one of that name; null: not here.
const Kernels* find_kernels(const char* name);

}  // namespace hanbit
