// Attention of one query over positions that lie anywhere in a cache, carried on from look to look. Compiled once for
// each instruction set, as kernels.cpp.
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

// Vectors of a head, COUNT at a time in registers: into = into factor + sum over positions of weight value. In two
// sums, or each addition would wait for the one before.
template <typename Number, int COUNT>
inline void add_values(float* into, const float* weights, const uint8_t* values, const int64_t* places, int64_t count,
                       float factor) {
    Vector sums[COUNT], others[COUNT] = {};
    for (int i = 0; i < COUNT; ++i) sums[i] = load(into + i * WIDTH) * factor;
    int64_t t = 0;
    for (; t + 2 <= count; t += 2) {
        for (int i = 0; i < COUNT; ++i) sums[i] += weights[t] * take<Number>(values + places[t], i * WIDTH);
        for (int i = 0; i < COUNT; ++i) others[i] += weights[t + 1] * take<Number>(values + places[t + 1], i * WIDTH);
    }
    if (t < count)
        for (int i = 0; i < COUNT; ++i) sums[i] += weights[t] * take<Number>(values + places[t], i * WIDTH);
    for (int i = 0; i < COUNT; ++i) store(into + i * WIDTH, sums[i] + others[i]);
}

template <typename Number>
void add_head(float* into, const float* weights, const uint8_t* values, const int64_t* places, int64_t count,
              int64_t head_dim, float factor) {
    constexpr int64_t SIZE = sizeof(Number);
    int64_t i = 0;
    for (; i + 4 * WIDTH <= head_dim; i += 4 * WIDTH)
        add_values<Number, 4>(into + i, weights, values + i * SIZE, places, count, factor);
    for (; i + WIDTH <= head_dim; i += WIDTH)
        add_values<Number, 1>(into + i, weights, values + i * SIZE, places, count, factor);
    for (; i < head_dim; ++i) {
        into[i] *= factor;
        for (int64_t t = 0; t < count; ++t) into[i] += weights[t] * take_one<Number>(values + places[t], i);
    }
}

// COUNT vectors of a query by as many of each of WIDTH keys. Unrolled by hand: compilers keep the sums in memory.
template <typename Number, int COUNT, bool IS_FIRST>
inline void add_scores(Vector* sums, const float* query, const uint8_t* keys, const int64_t* places) {
    Vector queries[COUNT];
    for (int i = 0; i < COUNT; ++i) queries[i] = load(query + i * WIDTH);
    const auto add = [&](int t) {
        const uint8_t* key = keys + places[t];
        Vector sum = queries[0] * take<Number>(key, 0);
        for (int i = 1; i < COUNT; ++i) sum += queries[i] * take<Number>(key, i * WIDTH);
        sums[t] = IS_FIRST ? sum : sums[t] + sum;
    };
    for (int t = 0; t < WIDTH; t += 4) add(t), add(t + 1), add(t + 2), add(t + 3);
}

// One query by WIDTH keys: their sums across vectors are taken together.
template <typename Number>
inline Vector scores_of(const float* query, const uint8_t* keys, const int64_t* places, int64_t head_dim) {
    constexpr int64_t SIZE = sizeof(Number);
    Vector sums[WIDTH];
    int64_t i = 4 * WIDTH;
    if (head_dim >= 4 * WIDTH) {
        add_scores<Number, 4, true>(sums, query, keys, places);
    } else if (head_dim >= WIDTH) {
        i = WIDTH;
        add_scores<Number, 1, true>(sums, query, keys, places);
    } else {
        i = 0;
        for (int t = 0; t < WIDTH; ++t) sums[t] = Vector{};
    }
    for (; i + 4 * WIDTH <= head_dim; i += 4 * WIDTH)
        add_scores<Number, 4, false>(sums, query + i, keys + i * SIZE, places);
    for (; i + WIDTH <= head_dim; i += WIDTH)
        add_scores<Number, 1, false>(sums, query + i, keys + i * SIZE, places);
    Vector scores = sums_of(sums);
    for (; i < head_dim; ++i)
        for (int t = 0; t < WIDTH; ++t) scores[t] += query[i] * take_one<Number>(keys + places[t], i);
    return scores;
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

template <typename Number>
void attend_tile(const float* query, const uint8_t* keys, const uint8_t* values, const int64_t* places, int64_t count,
                 int64_t head_dim, float scale, hanbit::Seen* seen) {
    constexpr bool HAS_SCALES = sizeof(Number) == 1;
    const int64_t num_vectors = (count + WIDTH - 1) / WIDTH, num_whole = count / WIDTH;
    int64_t last[WIDTH];  // what fills no vector, and the last of it again
    for (int64_t t = 0; t < WIDTH; ++t) {
        const int64_t place = num_whole * WIDTH + t;
        last[t] = places[place < count ? place : count - 1];
    }
    const auto places_at = [&](int64_t i) { return i < num_whole ? places + i * WIDTH : last; };
    Vector scores[TILE / WIDTH], best = Vector{} + seen->largest, total = {};
    for (int64_t i = 0; i < num_vectors; ++i) {
        scores[i] = scores_of<Number>(query, keys, places_at(i), head_dim) * scale;
        if (HAS_SCALES) scores[i] *= scales_of<Number>(keys, places_at(i), head_dim);
        best = scores[i] > best ? scores[i] : best;
    }
    float largest = best[0];
    for (int lane = 1; lane < WIDTH; ++lane) largest = best[lane] > largest ? best[lane] : largest;
    for (int64_t i = 0; i < num_vectors; ++i) scores[i] = exponential(scores[i] - largest);
    for (int64_t t = count; t < num_vectors * WIDTH; ++t) scores[t / WIDTH][t % WIDTH] = 0;
    for (int64_t i = 0; i < num_vectors; ++i) total += scores[i];
    if (HAS_SCALES)
        for (int64_t i = 0; i < num_vectors; ++i) scores[i] *= scales_of<Number>(values, places_at(i), head_dim);
    const float factor = scalar_exponential(seen->largest - largest);
    seen->largest = largest;
    seen->sum = seen->sum * factor + sum(total);
    add_head<Number>(seen->values(), reinterpret_cast<const float*>(scores), values, places, count, head_dim, factor);
}

template <typename Number>
void attend_all(const float* query, const uint8_t* keys, const uint8_t* values, const int64_t* places, int64_t count,
                int64_t head_dim, float scale, hanbit::Seen* seen) {
    for (int64_t t = 0; t < count; t += TILE) {
        const int64_t tile = count - t < TILE ? count - t : TILE;
        attend_tile<Number>(query, keys, values, places + t, tile, head_dim, scale, seen);
    }
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

void attend(hanbit::Kept kept, const float* query, const uint8_t* keys, const uint8_t* values, const int64_t* places,
            int64_t count, int64_t head_dim, float scale, hanbit::Seen* seen) {
    const auto attend_as = kept == hanbit::INT8 ? attend_all<int8_t> : attend_all<float>;
    attend_as(query, keys, values, places, count, head_dim, scale, seen);
}

}  // namespace HANBIT_SET
