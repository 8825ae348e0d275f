// float32 kernels. Compiled once for each instruction set: HANBIT_SET is the name of a namespace for it (build.py).

#include <math.h>

#include "attention.h"
#include "blocks.h"
#include "halves.h"
#include "kernels.h"
#include "vector.h"

namespace HANBIT_SET {
namespace {

using hanbit::Kind;

// Of the input and of the weights: as many sums as the registers hold beside what is loaded.
constexpr int ROWS_AT_ONCE = WIDTH == 16 ? 4 : 2, OUTS_AT_ONCE = WIDTH == 16 ? 4 : 3;
constexpr int FEW_ROWS = 8;

// ROWS by OUTS dot products. A result does not depend on ROWS and OUTS: sequences answered together get the numbers
// they would get alone.
template <int ROWS, int OUTS, typename Weight>
inline void dots(const float* input, int64_t input_stride, const Weight* weight, int64_t in, float* output,
                 int64_t output_stride) {
    constexpr int PARTS = LINE / WIDTH;
    Vector sums[ROWS][OUTS][PARTS] = {};
    int64_t i = 0;
    for (; i + LINE <= in; i += LINE) {
        for (int part = 0; part < PARTS; ++part) {
            Vector inputs[ROWS];
            for (int row = 0; row < ROWS; ++row) inputs[row] = load(input + row * input_stride + i + part * WIDTH);
            for (int out = 0; out < OUTS; ++out) {
                const Vector weights = load(weight + out * in + i + part * WIDTH);
                for (int row = 0; row < ROWS; ++row) sums[row][out][part] += weights * inputs[row];
            }
        }
    }
    Vector totals[ROWS * OUTS];
    for (int row = 0; row < ROWS; ++row)
        for (int out = 0; out < OUTS; ++out) {
            Vector& total = totals[row * OUTS + out] = sums[row][out][0];
            for (int part = 1; part < PARTS; ++part) total += sums[row][out][part];
        }
    float found[ROWS * OUTS];
    if constexpr (ROWS * OUTS == WIDTH) {
        store(found, sums_of(totals));
    } else {
        for (int place = 0; place < ROWS * OUTS; ++place) found[place] = sum(totals[place]);
    }
    for (int row = 0; row < ROWS; ++row)
        for (int out = 0; out < OUTS; ++out) {
            float rest = 0;
            for (int64_t j = i; j < in; ++j) rest += input[row * input_stride + j] * number(weight[out * in + j]);
            output[row * output_stride + out] = found[row * OUTS + out] + rest;
        }
}

// Weights are read strictly in the order of memory, one row after another, without prefetch instructions: that is what
// the processor's own prefetcher follows best. Of 14 GB/s that one core reads here (Zen 3), 13.7 come through; two or
// four rows side by side gave 10 to 12, prefetching 1 to 8 KiB ahead lost a tenth.
template <int ROWS, typename Weight>
void product_of(const float* input, int64_t input_stride, const Weight* weight, int64_t in, int64_t outs, float* output,
                int64_t output_stride) {
    constexpr int FIRST = ROWS < 4 ? ROWS : 4;  // more sums than the 16 registers of AVX2 hold would spill
    for (int64_t out = 0; out < outs; ++out, weight += in) {
        dots<FIRST, 1>(input, input_stride, weight, in, output + out, output_stride);
        if constexpr (ROWS > FIRST)  // the row of weights is in the first cache by now
            dots<ROWS - FIRST, 1>(input + FIRST * input_stride, input_stride, weight, in,
                                  output + FIRST * output_stride + out, output_stride);
    }
}

// Some rows by all outputs of a chunk, whose weights stay in the first cache
template <int ROWS, typename Weight>
void rows_of_many(const float* input, int64_t input_stride, const Weight* weight, int64_t in, int64_t outs,
                  float* output, int64_t output_stride) {
    int64_t out = 0;
    for (; out + OUTS_AT_ONCE <= outs; out += OUTS_AT_ONCE)
        dots<ROWS, OUTS_AT_ONCE>(input, input_stride, weight + out * in, in, output + out, output_stride);
    for (; out < outs; ++out) dots<ROWS, 1>(input, input_stride, weight + out * in, in, output + out, output_stride);
}

// Many rows are a matter of arithmetic, not of reading: every number that is loaded serves a tile of products.
template <typename Weight>
void product_of_many(const float* input, int64_t input_stride, int64_t rows, const Weight* weight, int64_t in,
                     int64_t outs, float* output, int64_t output_stride) {
    int64_t row = 0;
    for (; row + ROWS_AT_ONCE <= rows; row += ROWS_AT_ONCE)
        rows_of_many<ROWS_AT_ONCE>(input + row * input_stride, input_stride, weight, in, outs,
                                   output + row * output_stride, output_stride);
    for (; row < rows; ++row)
        rows_of_many<1>(input + row * input_stride, input_stride, weight, in, outs, output + row * output_stride,
                        output_stride);
}

template <typename Weight>
void product_with(const float* input, int64_t input_stride, int64_t rows, const Weight* weight, int64_t in,
                  int64_t outs, float* output, int64_t output_stride) {
    using Product = void (*)(const float*, int64_t, const Weight*, int64_t, int64_t, float*, int64_t);
    static const Product BY_ROWS[FEW_ROWS] = {product_of<1>, product_of<2>, product_of<3>, product_of<4>,
                                              product_of<5>, product_of<6>, product_of<7>, product_of<8>};
    if (rows > FEW_ROWS) return product_of_many(input, input_stride, rows, weight, in, outs, output, output_stride);
    if (rows > 0) BY_ROWS[rows - 1](input, input_stride, weight, in, outs, output, output_stride);
}

void product(Kind kind, const float* input, int64_t input_stride, int64_t rows, const void* weight, int64_t in,
             int64_t outs, float* output, int64_t output_stride) {
    const auto with = [&](const auto* numbers) {
        product_with(input, input_stride, rows, numbers, in, outs, output, output_stride);
    };
    if (kind == hanbit::FLOAT16) return with(static_cast<const Half*>(weight));
    if (kind == hanbit::BFLOAT16) return with(static_cast<const BFloat*>(weight));
    with(static_cast<const float*>(weight));
}

void float_row(Kind kind, const void* weight, int64_t in, int64_t out, float* output) {
    const auto copy = [&](const auto* numbers) {
        for (int64_t i = 0; i < in; ++i) output[i] = number(numbers[out * in + i]);
    };
    if (kind == hanbit::FLOAT16) return copy(static_cast<const Half*>(weight));
    if (kind == hanbit::BFLOAT16) return copy(static_cast<const BFloat*>(weight));
    copy(static_cast<const float*>(weight));
}

void swiglu(const float* gate, const float* up, int64_t count, float* output) {
    int64_t i = 0;
    for (; i + WIDTH <= count; i += WIDTH) {
        Vector x = load(gate + i);
        store(output + i, x / (1.0f + exponential(-x)) * load(up + i));
    }
    for (; i < count; ++i) output[i] = gate[i] / (1.0f + scalar_exponential(-gate[i])) * up[i];
}

inline float dot(const float* left, const float* right, int64_t count) {
    Vector sums = {};
    int64_t i = 0;
    for (; i + WIDTH <= count; i += WIDTH) sums += load(left + i) * load(right + i);
    float rest = 0;
    for (; i < count; ++i) rest += left[i] * right[i];
    return sum(sums) + rest;
}

void rms_norm(const float* input, const float* weight, float epsilon, int64_t width, float* output) {
    float factor = 1.0f / sqrtf(dot(input, input, width) / width + epsilon);
    for (int64_t i = 0; i < width; ++i) output[i] = input[i] * factor * weight[i];
}

void rotate(float* head, const float* cosines, const float* sines, int64_t half) {
    for (int64_t i = 0; i < half; ++i) {
        float first = head[i], second = head[i + half];
        head[i] = first * cosines[i] - second * sines[i];
        head[i + half] = second * cosines[i] + first * sines[i];
    }
}

int64_t largest(const float* numbers, int64_t count) {
    Vector best = Vector{} - INFINITY, strange = {};
    int64_t i = 0;
    for (; i + WIDTH <= count; i += WIDTH) {
        Vector found = load(numbers + i);
        best = found > best ? found : best;
        strange += found != found ? Vector{} + 1.0f : Vector{};
    }
    float top = -INFINITY;
    for (int part = 0; part < WIDTH; ++part) top = best[part] > top ? best[part] : top;
    bool is_whole = sum(strange) == 0;
    for (; i < count; ++i) {
        is_whole = is_whole && numbers[i] == numbers[i];
        top = numbers[i] > top ? numbers[i] : top;
    }
    if (!is_whole || top == INFINITY || top == -INFINITY) return -1;
    for (i = 0; numbers[i] != top; ++i) {
    }
    return i;
}

#if defined(__ARM_FEATURE_DOTPROD)
constexpr const char* NAME = "neondot";
#elif defined(__ARM_NEON)
constexpr const char* NAME = "neon";
#elif defined(__AVX512VNNI__)
constexpr const char* NAME = "avx512vnni";
#elif defined(__AVX512F__)
constexpr const char* NAME = "avx512";
#elif defined(__AVX2__)
constexpr const char* NAME = "avx2";
#else
constexpr const char* NAME = "portable";
#endif

}  // namespace

extern const hanbit::Kernels TABLE;
const hanbit::Kernels TABLE = {NAME,   product,  float_row, quantise, block_product, block_row,
                                swiglu, rms_norm, rotate,    keep,     attend,        largest};

}  // namespace HANBIT_SET
