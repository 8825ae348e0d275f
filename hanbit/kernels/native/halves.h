// Weights of 16 bits, as float32: every one of them is one, so nothing is rounded.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "vector.h"

namespace HANBIT_SET {

struct Half {
    uint16_t bits;
};
struct BFloat {  // the upper half of a float32
    uint16_t bits;
};

typedef uint16_t Shorts __attribute__((vector_size(HANBIT_VECTOR_BYTES / 2)));
typedef uint32_t Words __attribute__((vector_size(HANBIT_VECTOR_BYTES)));

inline Vector load(const BFloat* from) {
    Shorts shorts;
    memcpy(&shorts, from, sizeof shorts);
    const Words words = __builtin_convertvector(shorts, Words) << 16;
    Vector vector;
    memcpy(&vector, &words, sizeof vector);
    return vector;
}

// A half's exponent is 112 less than a float's, also where it is subnormal. For finite numbers alone.
constexpr float OF_EXPONENT = 0x1p112f;

inline Vector load(const Half* from) {
#if defined(__AVX512F__)
    return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__F16C__)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__ARM_NEON)
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&from->bits)));
#else
    Shorts shorts;
    memcpy(&shorts, from, sizeof shorts);
    const Words words = __builtin_convertvector(shorts, Words), sizes = (words & 0x7fff) << 13;
    Vector vector;
    memcpy(&vector, &sizes, sizeof vector);
    vector *= OF_EXPONENT;
    Words found;
    memcpy(&found, &vector, sizeof found);
    found |= (words & 0x8000) << 16;
    memcpy(&vector, &found, sizeof vector);
    return vector;
#endif
}

inline float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, exponent = half >> 10 & 31, rest = half & 0x3ff;
    uint32_t bits = sign | (exponent + 112) << 23 | rest << 13;
    if (exponent == 31) bits = sign | 0x7f800000 | rest << 13;
    if (exponent == 0) {  // below the normal numbers: rest 2^-24
        const float small = static_cast<float>(rest) * 5.9604644775390625e-8f;
        memcpy(&bits, &small, sizeof bits);
        bits |= sign;
    }
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

inline float number(float value) { return value; }

inline float number(BFloat value) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float found;
    memcpy(&found, &bits, sizeof found);
    return found;
}

inline float number(Half value) { return half_to_float(value.bits); }

}  // namespace HANBIT_SET
