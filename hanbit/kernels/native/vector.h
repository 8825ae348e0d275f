// The vector type of one build of the kernels, as wide as the instruction set it is compiled for.
//
// GCC's and Clang's vector extension: one source gives SSE, AVX2, AVX-512 and NEON. No header of the standard library
// with templates or inline functions may be included by what is compiled for several sets: the linker keeps one copy
// of such a function, and it may be the one with instructions that this processor lacks.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define HANBIT_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define HANBIT_VECTOR_BYTES 32
#else
#define HANBIT_VECTOR_BYTES 16
#endif

namespace HANBIT_SET {

typedef float Vector __attribute__((vector_size(HANBIT_VECTOR_BYTES)));
typedef int32_t Integers __attribute__((vector_size(HANBIT_VECTOR_BYTES)));

constexpr int WIDTH = HANBIT_VECTOR_BYTES / sizeof(float);
constexpr int LINE = 16;  // floats in a line of the cache

inline Vector load(const float* from) {  // aligned or not
    Vector vector;
    memcpy(&vector, from, sizeof vector);
    return vector;
}

inline void store(float* to, Vector vector) { memcpy(to, &vector, sizeof vector); }

// How numbers become int8: the largest of some becomes 127, unless all are so small that 127 over it is no number. A
// number of less than 2^22 becomes whole when ROUNDER is added and taken off: 1.5 2^23 leaves no room behind the point.
constexpr float LARGEST_INT8 = 127.0f, SMALLEST = 1e-30f, ROUNDER = 12582912.0f;

// Lanes of two vectors, those of the second one numbered on
#if defined(__clang__) || __GNUC__ >= 12
#define HANBIT_LANES(left, right, ...) __builtin_shufflevector(left, right, __VA_ARGS__)
#else
#define HANBIT_LANES(left, right, ...) __builtin_shuffle(left, right, Integers{__VA_ARGS__})
#endif

// The sum of each of WIDTH vectors, as one vector: neighbours are added, then pairs of them, in the same way for each.
inline Vector sums_of(const Vector* vectors) {
#if HANBIT_VECTOR_BYTES == 64
    Vector pairs[8], fours[4], eights[2];
    for (int i = 0; i < 8; ++i) {
        const Vector a = vectors[2 * i], b = vectors[2 * i + 1];
        pairs[i] = HANBIT_LANES(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
                   HANBIT_LANES(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
    }
    for (int i = 0; i < 4; ++i) {
        const Vector a = pairs[2 * i], b = pairs[2 * i + 1];
        fours[i] = HANBIT_LANES(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
                   HANBIT_LANES(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
    for (int i = 0; i < 2; ++i) {
        const Vector a = fours[2 * i], b = fours[2 * i + 1];
        eights[i] = HANBIT_LANES(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
                    HANBIT_LANES(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    }
    return HANBIT_LANES(eights[0], eights[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           HANBIT_LANES(eights[0], eights[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
#elif HANBIT_VECTOR_BYTES == 32
    Vector pairs[4], fours[2];
    for (int i = 0; i < 4; ++i) {
        const Vector a = vectors[2 * i], b = vectors[2 * i + 1];
        pairs[i] = HANBIT_LANES(a, b, 0, 8, 2, 10, 4, 12, 6, 14) + HANBIT_LANES(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
    }
    for (int i = 0; i < 2; ++i) {
        const Vector a = pairs[2 * i], b = pairs[2 * i + 1];
        fours[i] = HANBIT_LANES(a, b, 0, 1, 8, 9, 4, 5, 12, 13) + HANBIT_LANES(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    }
    return HANBIT_LANES(fours[0], fours[1], 0, 1, 2, 3, 8, 9, 10, 11) +
           HANBIT_LANES(fours[0], fours[1], 4, 5, 6, 7, 12, 13, 14, 15);
#else
    Vector pairs[2];
    for (int i = 0; i < 2; ++i) {
        const Vector a = vectors[2 * i], b = vectors[2 * i + 1];
        pairs[i] = HANBIT_LANES(a, b, 0, 4, 2, 6) + HANBIT_LANES(a, b, 1, 5, 3, 7);
    }
    return HANBIT_LANES(pairs[0], pairs[1], 0, 1, 4, 5) + HANBIT_LANES(pairs[0], pairs[1], 2, 3, 6, 7);
#endif
}

// The sum of one, in the same order
inline float sum(Vector v) {
#if HANBIT_VECTOR_BYTES == 64
    v += HANBIT_LANES(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    v += HANBIT_LANES(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    v += HANBIT_LANES(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    v += HANBIT_LANES(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
#elif HANBIT_VECTOR_BYTES == 32
    v += HANBIT_LANES(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
    v += HANBIT_LANES(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
    v += HANBIT_LANES(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
#else
    v += HANBIT_LANES(v, v, 1, 0, 3, 2);
    v += HANBIT_LANES(v, v, 2, 3, 0, 1);
#endif
    return v[0];
}

// e^x to 2 units in the last place: x = n ln 2 + r, a polynomial for e^r (Cephes' expf), n put into the exponent.
// NaN stays NaN: both comparisons are false for it.
inline Vector exponential(Vector x) {
    const Vector highest = Vector{} + 88.0f, lowest = Vector{} - 87.0f;
    x = x > highest ? highest : x;
    x = x < lowest ? lowest : x;
    Vector scaled = x * 1.44269504088896341f;
    Vector half = scaled < 0.0f ? Vector{} - 0.5f : Vector{} + 0.5f;
    Integers whole = __builtin_convertvector(scaled + half, Integers);
    Vector n = __builtin_convertvector(whole, Vector);
    Vector r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    Integers power = (whole + 127) << 23;
    Vector factor;
    memcpy(&factor, &power, sizeof factor);
    return p * factor;
}

inline float scalar_exponential(float x) { return exponential(Vector{} + x)[0]; }

}  // namespace HANBIT_SET
