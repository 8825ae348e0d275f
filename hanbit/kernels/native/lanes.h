// A few outputs side by side, each in a lane: what blocks.cpp needs of an instruction set to multiply integers.
//
// Of a panel's 16 outputs a vector holds LANES. Weights lie in chunks of 64 bytes, 4 inputs of each output; `weights`
// points at the bytes of the first lane in the first chunk of a block.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "halves.h"

namespace HANBIT_SET {
namespace {

constexpr int CHUNK = 64;  // bytes

inline int32_t four(const int8_t* input) {
    int32_t bytes;
    memcpy(&bytes, input, sizeof bytes);
    return bytes;
}

#if defined(__AVX512VNNI__)

constexpr int LANES = 16;
typedef __m512i Ints;
typedef __m512 Floats;

inline Ints same(int32_t number) { return _mm512_set1_epi32(number); }
inline Floats same(float number) { return _mm512_set1_ps(number); }
// With a mask of all lanes: GCC 12 warns of the plain ones, which leave a register undefined on purpose
inline Floats floats(Ints ints) { return _mm512_maskz_cvtepi32_ps(0xffff, ints); }
inline Floats halves(const uint8_t* from) {
    return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline Floats unsigned_bytes(const uint8_t* from) {
    return floats(_mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
inline Floats signed_bytes(const uint8_t* from) {
    return floats(_mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
inline Floats times(Floats left, Floats right) { return _mm512_mul_ps(left, right); }
inline Floats add_product(Floats sum, Floats left, Floats right) { return _mm512_fmadd_ps(left, right, sum); }
inline void store(float* to, Floats numbers) { _mm512_storeu_ps(to, numbers); }

template <int ROWS>
inline void dot_nibbles(const uint8_t* weights, const int8_t* const* input, Ints* dots) {
    const __m512i mask = _mm512_set1_epi8(15);
    for (int chunk = 0; chunk < 4; ++chunk) {
        const __m512i both = _mm512_loadu_si512(weights + chunk * CHUNK);
        const __m512i low = _mm512_and_si512(both, mask), high = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
        for (int row = 0; row < ROWS; ++row) {
            dots[row] = _mm512_dpbusd_epi32(dots[row], low, same(four(input[row] + 4 * chunk)));
            dots[row] = _mm512_dpbusd_epi32(dots[row], high, same(four(input[row] + 16 + 4 * chunk)));
        }
    }
}

// The bit of weight i or 16 + i above its nibble: of chunk c the bits c and 4 + c of `tops`
template <int ROWS>
inline void dot_fives(const uint8_t* weights, const uint8_t* tops, const int8_t* const* input, Ints* dots) {
    const __m512i mask = _mm512_set1_epi8(15), bit = _mm512_set1_epi8(16), top = _mm512_loadu_si512(tops);
    const __m512i shifted[4] = {_mm512_slli_epi16(top, 4), _mm512_slli_epi16(top, 3), _mm512_slli_epi16(top, 2),
                                _mm512_slli_epi16(top, 1)};
    const __m512i upper[4] = {top, _mm512_srli_epi16(top, 1), _mm512_srli_epi16(top, 2), _mm512_srli_epi16(top, 3)};
    for (int chunk = 0; chunk < 4; ++chunk) {
        const __m512i both = _mm512_loadu_si512(weights + chunk * CHUNK);
        const __m512i low = _mm512_or_si512(_mm512_and_si512(both, mask), _mm512_and_si512(shifted[chunk], bit));
        const __m512i high = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(both, 4), mask),
                                             _mm512_and_si512(upper[chunk], bit));
        for (int row = 0; row < ROWS; ++row) {
            dots[row] = _mm512_dpbusd_epi32(dots[row], low, same(four(input[row] + 4 * chunk)));
            dots[row] = _mm512_dpbusd_epi32(dots[row], high, same(four(input[row] + 16 + 4 * chunk)));
        }
    }
}

// The two bits above a nibble: of chunks 0 and 1 in the first vector of `tops`, of 2 and 3 in the second; in each byte
// of the even chunk's weight i, the odd one's, then of their weights 16 + i
template <int ROWS>
inline void dot_sixes(const uint8_t* weights, const uint8_t* tops, const int8_t* const* input, Ints* first,
                      Ints* second) {
    const __m512i mask = _mm512_set1_epi8(15), bits = _mm512_set1_epi8(48);
    for (int chunk = 0; chunk < 4; ++chunk) {
        const __m512i both = _mm512_loadu_si512(weights + chunk * CHUNK);
        const __m512i top = _mm512_loadu_si512(tops + chunk / 2 * CHUNK);
        const __m512i lower = _mm512_slli_epi16(top, chunk % 2 == 0 ? 4 : 2);
        const __m512i upper = chunk % 2 == 0 ? top : _mm512_srli_epi16(top, 2);
        const __m512i low = _mm512_or_si512(_mm512_and_si512(both, mask), _mm512_and_si512(lower, bits));
        const __m512i high = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(both, 4), mask),
                                             _mm512_and_si512(upper, bits));
        for (int row = 0; row < ROWS; ++row) {
            first[row] = _mm512_dpbusd_epi32(first[row], low, same(four(input[row] + 4 * chunk)));
            second[row] = _mm512_dpbusd_epi32(second[row], high, same(four(input[row] + 16 + 4 * chunk)));
        }
    }
}

// This instruction takes unsigned numbers by signed ones: 128 is added to each weight, and taken off at the start.
template <int ROWS>
inline void dot_bytes(const uint8_t* weights, const int8_t* const* input, const int32_t* minus_8_sums, Ints* dots) {
    const __m512i flip = _mm512_set1_epi8(-128);
    for (int row = 0; row < ROWS; ++row) dots[row] = same(minus_8_sums[row] * 16);
    for (int chunk = 0; chunk < 8; ++chunk) {
        const __m512i bytes = _mm512_xor_si512(_mm512_loadu_si512(weights + chunk * CHUNK), flip);
        for (int row = 0; row < ROWS; ++row)
            dots[row] = _mm512_dpbusd_epi32(dots[row], bytes, same(four(input[row] + 4 * chunk)));
    }
}

#elif defined(__AVX2__)

constexpr int LANES = 8;
typedef __m256i Ints;
typedef __m256 Floats;

inline Ints same(int32_t number) { return _mm256_set1_epi32(number); }
inline Floats same(float number) { return _mm256_set1_ps(number); }
inline Floats floats(Ints ints) { return _mm256_cvtepi32_ps(ints); }
inline Floats halves(const uint8_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline Floats unsigned_bytes(const uint8_t* from) {
    return floats(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
inline Floats signed_bytes(const uint8_t* from) {
    return floats(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
inline Floats times(Floats left, Floats right) { return _mm256_mul_ps(left, right); }
inline Floats add_product(Floats sum, Floats left, Floats right) { return _mm256_fmadd_ps(left, right, sum); }
inline void store(float* to, Floats numbers) { _mm256_storeu_ps(to, numbers); }
inline __m256i bytes_of(const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }

// Sums of two products, at most 2 x 15 x 127; eight of them fit into 16 bits.
template <int ROWS>
inline void dot_nibbles(const uint8_t* weights, const int8_t* const* input, Ints* dots) {
    const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i pairs[ROWS];
    for (int row = 0; row < ROWS; ++row) pairs[row] = _mm256_setzero_si256();
    for (int chunk = 0; chunk < 4; ++chunk) {
        const __m256i both = bytes_of(weights + chunk * CHUNK);
        const __m256i low = _mm256_and_si256(both, mask), high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
        for (int row = 0; row < ROWS; ++row) {
            const Ints first = same(four(input[row] + 4 * chunk)), second = same(four(input[row] + 16 + 4 * chunk));
            pairs[row] = _mm256_add_epi16(pairs[row], _mm256_maddubs_epi16(low, first));
            pairs[row] = _mm256_add_epi16(pairs[row], _mm256_maddubs_epi16(high, second));
        }
    }
    for (int row = 0; row < ROWS; ++row)
        dots[row] = _mm256_add_epi32(dots[row], _mm256_madd_epi16(pairs[row], ones));
}

// As above. Sums of two products, at most 2 x 31 x 127; two of them fit into 16 bits.
template <int ROWS>
inline void dot_fives(const uint8_t* weights, const uint8_t* tops, const int8_t* const* input, Ints* dots) {
    const __m256i mask = _mm256_set1_epi8(15), bit = _mm256_set1_epi8(16), ones = _mm256_set1_epi16(1);
    __m256i top = bytes_of(tops);
    for (int chunk = 0; chunk < 4; ++chunk, top = _mm256_srli_epi16(top, 1)) {
        const __m256i both = bytes_of(weights + chunk * CHUNK);
        const __m256i low = _mm256_or_si256(_mm256_and_si256(both, mask),
                                            _mm256_and_si256(_mm256_slli_epi16(top, 4), bit));
        const __m256i high = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(both, 4), mask),
                                             _mm256_and_si256(top, bit));
        for (int row = 0; row < ROWS; ++row) {
            const Ints first = same(four(input[row] + 4 * chunk)), second = same(four(input[row] + 16 + 4 * chunk));
            const __m256i of_low = _mm256_maddubs_epi16(low, first), of_high = _mm256_maddubs_epi16(high, second);
            const __m256i pairs = _mm256_add_epi16(of_low, of_high);
            dots[row] = _mm256_add_epi32(dots[row], _mm256_madd_epi16(pairs, ones));
        }
    }
}

// As above. Sums of two products, at most 2 x 63 x 127, fit into 16 bits.
template <int ROWS>
inline void dot_sixes(const uint8_t* weights, const uint8_t* tops, const int8_t* const* input, Ints* first,
                      Ints* second) {
    const __m256i mask = _mm256_set1_epi8(15), bits = _mm256_set1_epi8(48), ones = _mm256_set1_epi16(1);
    for (int chunk = 0; chunk < 4; ++chunk) {
        const __m256i both = bytes_of(weights + chunk * CHUNK), top = bytes_of(tops + chunk / 2 * CHUNK);
        const __m256i lower = chunk % 2 == 0 ? _mm256_slli_epi16(top, 4) : _mm256_slli_epi16(top, 2);
        const __m256i upper = chunk % 2 == 0 ? top : _mm256_srli_epi16(top, 2);
        const __m256i low = _mm256_or_si256(_mm256_and_si256(both, mask), _mm256_and_si256(lower, bits));
        const __m256i high = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(both, 4), mask),
                                             _mm256_and_si256(upper, bits));
        for (int row = 0; row < ROWS; ++row) {
            const __m256i some = _mm256_maddubs_epi16(low, same(four(input[row] + 4 * chunk)));
            const __m256i others = _mm256_maddubs_epi16(high, same(four(input[row] + 16 + 4 * chunk)));
            first[row] = _mm256_add_epi32(first[row], _mm256_madd_epi16(some, ones));
            second[row] = _mm256_add_epi32(second[row], _mm256_madd_epi16(others, ones));
        }
    }
}

// The sign of a weight goes to the input: |weight| <= 128 by 127, twice, fits into 16 bits.
template <int ROWS>
inline void dot_bytes(const uint8_t* weights, const int8_t* const* input, const int32_t*, Ints* dots) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int row = 0; row < ROWS; ++row) dots[row] = _mm256_setzero_si256();
    for (int chunk = 0; chunk < 8; ++chunk) {
        const __m256i bytes = bytes_of(weights + chunk * CHUNK), size = _mm256_abs_epi8(bytes);
        for (int row = 0; row < ROWS; ++row) {
            const __m256i turned = _mm256_sign_epi8(same(four(input[row] + 4 * chunk)), bytes);
            const __m256i pairs = _mm256_maddubs_epi16(size, turned);
            dots[row] = _mm256_add_epi32(dots[row], _mm256_madd_epi16(pairs, ones));
        }
    }
}

#elif defined(__ARM_NEON)

constexpr int LANES = 4;
typedef int32x4_t Ints;
typedef float32x4_t Floats;

inline Ints same(int32_t number) { return vdupq_n_s32(number); }
inline Floats same(float number) { return vdupq_n_f32(number); }
inline Floats floats(Ints ints) { return vcvtq_f32_s32(ints); }
inline Floats halves(const uint8_t* from) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from)));
}
inline Floats unsigned_bytes(const uint8_t* from) {
    uint32_t four_bytes;
    memcpy(&four_bytes, from, sizeof four_bytes);
    const uint16x8_t wide = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four_bytes)));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide)));
}
inline Floats signed_bytes(const uint8_t* from) {
    uint32_t four_bytes;
    memcpy(&four_bytes, from, sizeof four_bytes);
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four_bytes)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}
inline Floats times(Floats left, Floats right) { return vmulq_f32(left, right); }
inline Floats add_product(Floats sum, Floats left, Floats right) { return vfmaq_f32(sum, left, right); }
inline void store(float* to, Floats numbers) { vst1q_f32(to, numbers); }

inline Ints add_dots(Ints sum, int8x16_t weights, int8x16_t input) {
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, weights, input);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(input));
    const int16x8_t high = vmull_s8(vget_high_s8(weights), vget_high_s8(input));
    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
}

inline int8x16_t four_of(const int8_t* input) { return vreinterpretq_s8_s32(same(four(input))); }

template <int ROWS>
inline void dot_nibbles(const uint8_t* weights, const int8_t* const* input, Ints* dots) {
    for (int chunk = 0; chunk < 4; ++chunk) {
        const uint8x16_t both = vld1q_u8(weights + chunk * CHUNK);
        const int8x16_t low = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
        const int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
        for (int row = 0; row < ROWS; ++row) {
            dots[row] = add_dots(dots[row], low, four_of(input[row] + 4 * chunk));
            dots[row] = add_dots(dots[row], high, four_of(input[row] + 16 + 4 * chunk));
        }
    }
}

// As above
template <int ROWS>
inline void dot_fives(const uint8_t* weights, const uint8_t* tops, const int8_t* const* input, Ints* dots) {
    const uint8x16_t mask = vdupq_n_u8(15), bit = vdupq_n_u8(16);
    uint8x16_t top = vld1q_u8(tops);
    for (int chunk = 0; chunk < 4; ++chunk, top = vshrq_n_u8(top, 1)) {
        const uint8x16_t both = vld1q_u8(weights + chunk * CHUNK);
        const uint8x16_t low = vorrq_u8(vandq_u8(both, mask), vandq_u8(vshlq_n_u8(top, 4), bit));
        const uint8x16_t high = vorrq_u8(vshrq_n_u8(both, 4), vandq_u8(top, bit));
        for (int row = 0; row < ROWS; ++row) {
            dots[row] = add_dots(dots[row], vreinterpretq_s8_u8(low), four_of(input[row] + 4 * chunk));
            dots[row] = add_dots(dots[row], vreinterpretq_s8_u8(high), four_of(input[row] + 16 + 4 * chunk));
        }
    }
}

// As above
template <int ROWS>
inline void dot_sixes(const uint8_t* weights, const uint8_t* tops, const int8_t* const* input, Ints* first,
                      Ints* second) {
    const uint8x16_t mask = vdupq_n_u8(15), bits = vdupq_n_u8(48);
    for (int chunk = 0; chunk < 4; ++chunk) {
        const uint8x16_t both = vld1q_u8(weights + chunk * CHUNK), top = vld1q_u8(tops + chunk / 2 * CHUNK);
        const uint8x16_t lower = chunk % 2 == 0 ? vshlq_n_u8(top, 4) : vshlq_n_u8(top, 2);
        const uint8x16_t upper = chunk % 2 == 0 ? top : vshrq_n_u8(top, 2);
        const uint8x16_t low = vorrq_u8(vandq_u8(both, mask), vandq_u8(lower, bits));
        const uint8x16_t high = vorrq_u8(vshrq_n_u8(both, 4), vandq_u8(upper, bits));
        for (int row = 0; row < ROWS; ++row) {
            first[row] = add_dots(first[row], vreinterpretq_s8_u8(low), four_of(input[row] + 4 * chunk));
            second[row] = add_dots(second[row], vreinterpretq_s8_u8(high), four_of(input[row] + 16 + 4 * chunk));
        }
    }
}

template <int ROWS>
inline void dot_bytes(const uint8_t* weights, const int8_t* const* input, const int32_t*, Ints* dots) {
    for (int row = 0; row < ROWS; ++row) dots[row] = same(0);
    for (int chunk = 0; chunk < 8; ++chunk) {
        const int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(weights + chunk * CHUNK));
        for (int row = 0; row < ROWS; ++row)
            dots[row] = add_dots(dots[row], bytes, four_of(input[row] + 4 * chunk));
    }
}

#else

constexpr int LANES = 1;
typedef int32_t Ints;
typedef float Floats;

inline Ints same(int32_t number) { return number; }
inline Floats same(float number) { return number; }
inline Floats floats(Ints ints) { return static_cast<float>(ints); }
inline Floats halves(const uint8_t* from) {
    uint16_t half;
    memcpy(&half, from, sizeof half);
    return half_to_float(half);
}
inline Floats unsigned_bytes(const uint8_t* from) { return *from; }
inline Floats signed_bytes(const uint8_t* from) { return static_cast<int8_t>(*from); }
inline Floats times(Floats left, Floats right) { return left * right; }
inline Floats add_product(Floats sum, Floats left, Floats right) { return sum + left * right; }
inline void store(float* to, Floats number) { *to = number; }

template <int ROWS>
inline void dot_nibbles(const uint8_t* weights, const int8_t* const* input, Ints* dots) {
    for (int row = 0; row < ROWS; ++row)
        for (int i = 0; i < 16; ++i) {
            const int both = weights[i / 4 * CHUNK + i % 4];
            dots[row] += (both & 15) * input[row][i] + (both >> 4) * input[row][16 + i];
        }
}

// As above
template <int ROWS>
inline void dot_fives(const uint8_t* weights, const uint8_t* tops, const int8_t* const* input, Ints* dots) {
    for (int row = 0; row < ROWS; ++row)
        for (int i = 0; i < 16; ++i) {
            const int both = weights[i / 4 * CHUNK + i % 4], top = tops[i % 4] >> i / 4;
            dots[row] += ((both & 15) | (top & 1) << 4) * input[row][i];
            dots[row] += (both >> 4 | (top & 16)) * input[row][16 + i];
        }
}

// As above
template <int ROWS>
inline void dot_sixes(const uint8_t* weights, const uint8_t* tops, const int8_t* const* input, Ints* first,
                      Ints* second) {
    for (int row = 0; row < ROWS; ++row)
        for (int i = 0; i < 16; ++i) {
            const int both = weights[i / 4 * CHUNK + i % 4], top = tops[i / 8 * CHUNK + i % 4] >> i / 4 % 2 * 2;
            first[row] += ((both & 15) | (top & 3) << 4) * input[row][i];
            second[row] += (both >> 4 | (top & 48)) * input[row][16 + i];
        }
}

template <int ROWS>
inline void dot_bytes(const uint8_t* weights, const int8_t* const* input, const int32_t*, Ints* dots) {
    for (int row = 0; row < ROWS; ++row) {
        dots[row] = 0;
        for (int i = 0; i < 32; ++i)
            dots[row] += static_cast<int8_t>(weights[i / 4 * CHUNK + i % 4]) * input[row][i];
    }
}

#endif

}  // namespace
}  // namespace HANBIT_SET
