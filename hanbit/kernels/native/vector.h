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
typedef float Quarter __attribute__((vector_size(16)));

constexpr int WIDTH = HANBIT_VECTOR_BYTES / sizeof(float);
constexpr int LINE = 16;  // floats in a line of the cache

inline Vector load(const float* from) {  // aligned or not
    Vector vector;
    memcpy(&vector, from, sizeof vector);
    return vector;
}

inline void store(float* to, Vector vector) { memcpy(to, &vector, sizeof vector); }

inline float sum(Vector vector) {
    Quarter parts[WIDTH / 4];
    memcpy(parts, &vector, sizeof vector);
    for (int part = 1; part < WIDTH / 4; ++part) parts[0] += parts[part];
    return (parts[0][0] + parts[0][2]) + (parts[0][1] + parts[0][3]);
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

}  // namespace HANBIT_SET
