// Attention of queries over positions that lie anywhere in a cache, carried on from look to look. Compiled once for
// each instruction set, as kernels.cpp.
//
// Queries that look at the same positions go together, for a key or value that is loaded then serves each of them. What
// a query gets does not depend on it: its sums are taken in the same order.
//
// A head is kept as float32, or as int8 numbers and behind them what these are to be multiplied with, a float32.

#include "attention.h"

#include "vector.h"

namespace HANBIT_SET {
namespace {

template <typename Number>
inline Vector take(const uint8_t* head, int64_t first) {
    if constexpr (sizeof(Number) == 1) {
        typedef int8_t Bytes __attribute__((vector_size(WIDTH)));
        Bytes bytes;
        memcpy(&bytes, head + first, sizeof bytes);
        return __builtin_convertvector(__builtin_convertvector(bytes, Integers), Vector);
    } else {
        Vector numbers;
        memcpy(&numbers, head + first * sizeof(float), sizeof numbers);
        return numbers;
    }
}

template <typename Number>
inline float take_one(const uint8_t* head, int64_t place) {
    Number number;
    memcpy(&number, head + place * sizeof(Number), sizeof number);
    return static_cast<float>(number);
}

constexpr int TILE = 64;  // positions between two corrections of the running softmax

constexpr int QUERIES_AT_ONCE = WIDTH == 16 ? 3 : 1;  // as many as have their sums in registers

// Vectors of a head, COUNT at a time in registers: into = into factor + sum over positions of weight value. In two
// sums, or each addition would wait for the one before.
template <typename Number, int QUERIES, int COUNT>
inline void add_values(float* const* into, int64_t first, const float (*weights)[TILE], const uint8_t* values,
                       const int64_t* places, int64_t count, const float* factors) {
    Vector sums[QUERIES][COUNT], others[QUERIES][COUNT] = {};
    for (int query = 0; query < QUERIES; ++query)
        for (int i = 0; i < COUNT; ++i) sums[query][i] = load(into[query] + first + i * WIDTH) * factors[query];
    const auto add = [&](Vector(&to)[QUERIES][COUNT], int64_t t) {
        const uint8_t* value = values + places[t];
        for (int i = 0; i < COUNT; ++i) {
            const Vector numbers = take<Number>(value, first + i * WIDTH);
            for (int query = 0; query < QUERIES; ++query) to[query][i] += weights[query][t] * numbers;
        }
    };
    int64_t t = 0;
    for (; t + 2 <= count; t += 2) add(sums, t), add(others, t + 1);
    if (t < count) add(sums, t);
    for (int query = 0; query < QUERIES; ++query)
        for (int i = 0; i < COUNT; ++i) store(into[query] + first + i * WIDTH, sums[query][i] + others[query][i]);
}

template <typename Number, int QUERIES>
void add_head(float* const* into, const float (*weights)[TILE], const uint8_t* values, const int64_t* places,
              int64_t count, int64_t head_dim, const float* factors) {
    int64_t i = 0;
    for (; i + 4 * WIDTH <= head_dim; i += 4 * WIDTH)
        add_values<Number, QUERIES, 4>(into, i, weights, values, places, count, factors);
    for (; i + WIDTH <= head_dim; i += WIDTH)
        add_values<Number, QUERIES, 1>(into, i, weights, values, places, count, factors);
    for (; i < head_dim; ++i)
        for (int query = 0; query < QUERIES; ++query) {
            float& sum = into[query][i];
            sum *= factors[query];
            for (int64_t t = 0; t < count; ++t) sum += weights[query][t] * take_one<Number>(values + places[t], i);
        }
}

// COUNT vectors of queries by as many of each of WIDTH keys. Unrolled by hand: compilers keep the sums in memory.
template <typename Number, int QUERIES, int COUNT, bool IS_FIRST>
inline void add_scores(Vector (*sums)[WIDTH], const float* const* queries, int64_t first, const uint8_t* keys,
                       const int64_t* places) {
    Vector parts[QUERIES][COUNT];
    for (int query = 0; query < QUERIES; ++query)
        for (int i = 0; i < COUNT; ++i) parts[query][i] = load(queries[query] + first + i * WIDTH);
    const auto add = [&](int t) {
        const uint8_t* key = keys + places[t];
        Vector found[QUERIES];
        Vector numbers = take<Number>(key, first);
        for (int query = 0; query < QUERIES; ++query) found[query] = parts[query][0] * numbers;
        for (int i = 1; i < COUNT; ++i) {
            numbers = take<Number>(key, first + i * WIDTH);
            for (int query = 0; query < QUERIES; ++query) found[query] += parts[query][i] * numbers;
        }
        for (int query = 0; query < QUERIES; ++query)
            sums[query][t] = IS_FIRST ? found[query] : sums[query][t] + found[query];
    };
    for (int t = 0; t < WIDTH; t += 4) add(t), add(t + 1), add(t + 2), add(t + 3);
}

// Queries by WIDTH keys: their sums across vectors are taken together.
template <typename Number, int QUERIES>
inline void scores_of(const float* const* queries, const uint8_t* keys, const int64_t* places, int64_t head_dim,
                      Vector* scores) {
    Vector sums[QUERIES][WIDTH];
    int64_t i = 4 * WIDTH;
    if (head_dim >= 4 * WIDTH) {
        add_scores<Number, QUERIES, 4, true>(sums, queries, 0, keys, places);
    } else if (head_dim >= WIDTH) {
        i = WIDTH;
        add_scores<Number, QUERIES, 1, true>(sums, queries, 0, keys, places);
    } else {
        i = 0;
        for (int query = 0; query < QUERIES; ++query)
            for (int t = 0; t < WIDTH; ++t) sums[query][t] = Vector{};
    }
    for (; i + 4 * WIDTH <= head_dim; i += 4 * WIDTH)
        add_scores<Number, QUERIES, 4, false>(sums, queries, i, keys, places);
    for (; i + WIDTH <= head_dim; i += WIDTH)
        add_scores<Number, QUERIES, 1, false>(sums, queries, i, keys, places);
    for (int query = 0; query < QUERIES; ++query) {
        Vector found = sums_of(sums[query]);
        for (int64_t rest = i; rest < head_dim; ++rest)
            for (int t = 0; t < WIDTH; ++t)
                found[t] += queries[query][rest] * take_one<Number>(keys + places[t], rest);
        scores[query] = found;
    }
}

// What numbers of WIDTH heads are to be multiplied with
template <typename Number>
inline Vector scales_of(const uint8_t* heads, const int64_t* places, int64_t head_dim) {
    Vector scales = Vector{} + 1.0f;
    if constexpr (sizeof(Number) == 1)
        for (int t = 0; t < WIDTH; ++t) {
            float scale;
            memcpy(&scale, heads + places[t] + head_dim, sizeof scale);
            scales[t] = scale;
        }
    return scales;
}

// A tile's scores become weights of the softmax, which is carried on. Returns what the sums so far are to be multiplied
// with.
inline float weigh(Vector* scores, int64_t num_vectors, int64_t count, hanbit::Seen* seen) {
    Vector best = Vector{} + seen->largest, total = {};
    for (int64_t i = 0; i < num_vectors; ++i) best = scores[i] > best ? scores[i] : best;
    float largest = best[0];
    for (int lane = 1; lane < WIDTH; ++lane) largest = best[lane] > largest ? best[lane] : largest;
    for (int64_t i = 0; i < num_vectors; ++i) scores[i] = exponential(scores[i] - largest);
    for (int64_t t = count; t < num_vectors * WIDTH; ++t) scores[t / WIDTH][t % WIDTH] = 0;
    for (int64_t i = 0; i < num_vectors; ++i) total += scores[i];
    const float factor = scalar_exponential(seen->largest - largest);
    seen->largest = largest;
    seen->sum = seen->sum * factor + sum(total);
    return factor;
}

template <typename Number, int QUERIES>
void attend_tile(const float* const* queries, const uint8_t* keys, const uint8_t* values, const int64_t* places,
                 int64_t count, int64_t head_dim, float scale, hanbit::Seen* const* seen) {
    constexpr bool HAS_SCALES = sizeof(Number) == 1;
    const int64_t num_vectors = (count + WIDTH - 1) / WIDTH, num_whole = count / WIDTH;
    int64_t last[WIDTH];  // what fills no vector, and the last of it again
    for (int64_t t = 0; t < WIDTH; ++t) {
        const int64_t place = num_whole * WIDTH + t;
        last[t] = places[place < count ? place : count - 1];
    }
    const auto places_at = [&](int64_t i) { return i < num_whole ? places + i * WIDTH : last; };
    Vector scores[QUERIES][TILE / WIDTH];
    for (int64_t i = 0; i < num_vectors; ++i) {
        Vector found[QUERIES];
        scores_of<Number, QUERIES>(queries, keys, places_at(i), head_dim, found);
        const Vector scales = scales_of<Number>(keys, places_at(i), head_dim);
        for (int query = 0; query < QUERIES; ++query) {
            scores[query][i] = found[query] * scale;
            if (HAS_SCALES) scores[query][i] *= scales;
        }
    }
    float factors[QUERIES];
    float* into[QUERIES];
    for (int query = 0; query < QUERIES; ++query) {
        factors[query] = weigh(scores[query], num_vectors, count, seen[query]);
        into[query] = seen[query]->values();
    }
    if (HAS_SCALES)
        for (int64_t i = 0; i < num_vectors; ++i) {
            const Vector scales = scales_of<Number>(values, places_at(i), head_dim);
            for (int query = 0; query < QUERIES; ++query) scores[query][i] *= scales;
        }
    float weights[QUERIES][TILE];
    memcpy(weights, scores, sizeof weights);
    add_head<Number, QUERIES>(into, weights, values, places, count, head_dim, factors);
}

template <typename Number, int QUERIES>
void attend_all(const float* const* queries, const uint8_t* keys, const uint8_t* values, const int64_t* places,
                int64_t count, int64_t head_dim, float scale, hanbit::Seen* const* seen) {
    for (int64_t t = 0; t < count; t += TILE) {
        const int64_t tile = count - t < TILE ? count - t : TILE;
        attend_tile<Number, QUERIES>(queries, keys, values, places + t, tile, head_dim, scale, seen);
    }
}

template <typename Number>
void attend_by(int64_t num_queries, const float* const* queries, const uint8_t* keys, const uint8_t* values,
               const int64_t* places, int64_t count, int64_t head_dim, float scale, hanbit::Seen* const* seen) {
    int64_t query = 0;
    for (; query + QUERIES_AT_ONCE <= num_queries; query += QUERIES_AT_ONCE)
        attend_all<Number, QUERIES_AT_ONCE>(queries + query, keys, values, places, count, head_dim, scale,
                                            seen + query);
    for (; query < num_queries; ++query)
        attend_all<Number, 1>(queries + query, keys, values, places, count, head_dim, scale, seen + query);
}

// The largest becomes 127; what is no number makes the scale none.
void keep_bytes(const float* head, int64_t head_dim, uint8_t* into) {
    float largest = 0, strange = 0;
    for (int64_t i = 0; i < head_dim; ++i) {
        const float size = head[i] < 0 ? -head[i] : head[i];
        largest = size > largest ? size : largest;
        strange += head[i] - head[i];
    }
    const bool is_finite = strange == 0;
    const float factor = is_finite && largest > SMALLEST ? LARGEST_INT8 / largest : 0.0f;
    int8_t* numbers = reinterpret_cast<int8_t*>(into);
    for (int64_t i = 0; i < head_dim; ++i)
        numbers[i] = static_cast<int8_t>(is_finite ? (head[i] * factor + ROUNDER) - ROUNDER : 0.0f);
    const float scale = (factor == 0.0f ? 0.0f : largest / LARGEST_INT8) + strange;
    memcpy(into + head_dim, &scale, sizeof scale);
}

}  // namespace

void keep(hanbit::Kept kept, const float* head, int64_t head_dim, uint8_t* into) {
    if (kept == hanbit::INT8) return keep_bytes(head, head_dim, into);
    memcpy(into, head, head_dim * sizeof(float));
}

void attend(hanbit::Kept kept, int64_t num_queries, const float* const* queries, const uint8_t* keys,
            const uint8_t* values, const int64_t* places, int64_t count, int64_t head_dim, float scale,
            hanbit::Seen* const* seen) {
    const auto attend_as = kept == hanbit::INT8 ? attend_by<int8_t> : attend_by<float>;
    attend_as(num_queries, queries, keys, values, places, count, head_dim, scale, seen);
}

}  // namespace HANBIT_SET
