#include "decoder.h"

#include <math.h>
#include <string.h>

#include <algorithm>

namespace hanbit {
namespace {

// Positions that one chunk of attention looks at, at least; a long sequence is cut into at most MOST_PARTS.
constexpr int64_t SHORTEST_PART = 128, MOST_PARTS = 64;
constexpr int64_t PLACES = 128;  // positions that are looked up at once; several tiles of the kernel

int64_t first_seen(int64_t position, int64_t window) {
    return window == 0 ? 0 : std::max<int64_t>(0, position + 1 - window);
}

}  // namespace

void Step::run(const int64_t* tokens, const int64_t* positions, const int32_t* const* blocks, int rows, float* logits,
               int num_threads) {
    positions_ = positions;
    blocks_ = blocks;
    rows_ = rows;
    logits_ = logits;
    const int64_t longest = *std::max_element(positions, positions + rows) + 1;
    part_length_ = std::max(SHORTEST_PART, (longest + MOST_PARTS - 1) / MOST_PARTS);
    num_parts_ = static_cast<int>((longest + part_length_ - 1) / part_length_);
    make_room();
    embed(tokens);
    norm(decoder_.layers[0].attention_norm, decoder_.layers[0].projection);
    Team::instance().run(*this, num_threads);
}

void Step::make_room() {
    const HanbitDecoder& d = decoder_;
    residual_.resize(rows_ * d.hidden);
    normed_.resize(rows_ * d.hidden);
    added_.resize(rows_ * d.hidden);
    joined_.resize(rows_ * (d.heads + 2 * d.key_value_heads) * d.head_dim);
    attended_.resize(rows_ * d.heads * d.head_dim);
    gate_up_.resize(rows_ * 2 * d.inner);
    inner_.resize(rows_ * d.inner);
    quantised_.resize_bytes(rows_ * quantised_bytes(std::max({d.hidden, d.heads * d.head_dim, d.inner})));
    seen_.resize(rows_ * d.heads * num_parts_ * (d.head_dim + sizeof(Seen) / sizeof(float)));
}

int Step::num_phases() const { return static_cast<int>(decoder_.num_layers * KINDS + 1); }

int Step::num_chunks(int phase) const {
    if (is_head(phase)) return hanbit::num_chunks(decoder_.head);
    const HanbitLayer& layer = layer_of(phase);
    switch (phase % KINDS) {
        case PROJECTION: return hanbit::num_chunks(layer.projection);
        case ATTENTION: return static_cast<int>(rows_ * decoder_.key_value_heads * num_parts_);
        case OUTPUT: return hanbit::num_chunks(layer.output);
        case GATE_UP: return hanbit::num_chunks(layer.gate_up);
        default: return hanbit::num_chunks(layer.down);
    }
}

void Step::chunk(int phase, int index) {
    if (is_head(phase)) return do_chunk(kernels_, decoder_.head, rows_of(normed_), index, logits_);
    const HanbitLayer& layer = layer_of(phase);
    switch (phase % KINDS) {
        case PROJECTION: return do_chunk(kernels_, layer.projection, rows_of(normed_), index, joined_.data());
        case ATTENTION: return attend(layer, index);
        case OUTPUT: return do_chunk(kernels_, layer.output, rows_of(attended_), index, added_.data());
        case GATE_UP: return do_chunk(kernels_, layer.gate_up, rows_of(normed_), index, gate_up_.data());
        default: return do_chunk(kernels_, layer.down, rows_of(inner_), index, added_.data());
    }
}

void Step::finish(int phase) {
    if (is_head(phase)) return;
    const HanbitLayer& layer = layer_of(phase);
    const bool is_last = phase / KINDS + 1 == decoder_.num_layers;
    switch (phase % KINDS) {
        case PROJECTION: return take_heads(layer);
        case ATTENTION: return merge_parts(layer.output);
        case OUTPUT: return add_and_norm(layer.mlp_norm, layer.gate_up);
        case GATE_UP: return activate(layer.down);
        default:
            if (is_last) return add_and_norm(decoder_.norm, decoder_.head);
            return add_and_norm((&layer + 1)->attention_norm, (&layer + 1)->projection);
    }
}

void Step::embed(const int64_t* tokens) {
    const int64_t hidden = decoder_.hidden;
    for (int row = 0; row < rows_; ++row)
        take_row(kernels_, decoder_.embedding, hidden, tokens[row], &residual_[row * hidden]);
}

void Step::quantise(const HanbitLinear& next, Buffer& floats) {
    if (!takes_blocks(next)) return;
    for (int row = 0; row < rows_; ++row)
        kernels_.quantise(&floats[row * next.in], next.in, quantised_.bytes() + row * quantised_bytes(next.in));
}

void Step::norm(const float* weight, const HanbitLinear& next) {
    const int64_t hidden = decoder_.hidden;
    for (int row = 0; row < rows_; ++row)
        kernels_.rms_norm(&residual_[row * hidden], weight, decoder_.epsilon, hidden, &normed_[row * hidden]);
    quantise(next, normed_);
}

void Step::add_and_norm(const float* weight, const HanbitLinear& next) {
    float *residual = residual_.data(), *added = added_.data();
    for (int64_t i = 0; i < rows_ * decoder_.hidden; ++i) residual[i] += added[i];
    norm(weight, next);
}

void Step::activate(const HanbitLinear& next) {
    const int64_t inner = decoder_.inner;
    for (int row = 0; row < rows_; ++row) {
        const float* gate = &gate_up_[row * 2 * inner];
        kernels_.swiglu(gate, gate + inner, inner, &inner_[row * inner]);
    }
    quantise(next, inner_);
}

// Query and key heads are turned where they are; keys and values go to the cache.
void Step::take_heads(const HanbitLayer& layer) {
    const HanbitDecoder& d = decoder_;
    const int64_t width = d.key_value_heads * d.head_dim;  // of a position in the cache
    for (int row = 0; row < rows_; ++row) {
        float* query = &joined_[row * (d.heads * d.head_dim + 2 * width)];
        float *key = query + d.heads * d.head_dim, *value = key + width;
        for (int64_t head = 0; head < d.heads; ++head)
            take_head(query + head * d.head_dim, layer.query_norm, positions_[row]);
        for (int64_t head = 0; head < d.key_value_heads; ++head)
            take_head(key + head * d.head_dim, layer.key_norm, positions_[row]);
        const int64_t place = place_of(row, positions_[row]);
        memcpy(layer.keys + place, key, width * sizeof(float));
        memcpy(layer.values + place, value, width * sizeof(float));
    }
}

void Step::take_head(float* head, const float* weight, int64_t position) {
    const int64_t half = decoder_.rotated / 2, angles = position * half;
    if (weight != nullptr) kernels_.rms_norm(head, weight, decoder_.epsilon, decoder_.head_dim, head);
    kernels_.rotate(head, decoder_.cosines + angles, decoder_.sines + angles, half);
}

int64_t Step::place_of(int row, int64_t position) const {
    const int64_t width = decoder_.key_value_heads * decoder_.head_dim, size = decoder_.block_size;
    return (blocks_[row][position / size] * size + position % size) * width;
}

// Those of `count` positions from `begin` on, block by block: a division for each would take as long as its scores.
void Step::find_places(int row, int64_t begin, int64_t count, int64_t offset, int64_t* places) const {
    const int64_t width = decoder_.key_value_heads * decoder_.head_dim, size = decoder_.block_size;
    for (int64_t done = 0; done < count;) {
        const int64_t first = place_of(row, begin + done) + offset;
        const int64_t run = std::min(count - done, size - (begin + done) % size);
        for (int64_t i = 0; i < run; ++i) places[done + i] = first + i * width;
        done += run;
    }
}

Seen* Step::seen(int row, int64_t head, int part) {
    const int64_t size = decoder_.head_dim + sizeof(Seen) / sizeof(float);
    return reinterpret_cast<Seen*>(&seen_[((row * decoder_.heads + head) * num_parts_ + part) * size]);
}

// One part of the positions that one row sees, by all query heads that share a key head: its keys are read once.
void Step::attend(const HanbitLayer& layer, int index) {
    const HanbitDecoder& d = decoder_;
    const int part = index % num_parts_, row = index / num_parts_ / d.key_value_heads;
    const int64_t shared = index / num_parts_ % d.key_value_heads, group = d.heads / d.key_value_heads;
    const int64_t first = std::max(part * part_length_, first_seen(positions_[row], layer.window));
    const int64_t end = std::min((part + 1) * part_length_, positions_[row] + 1);
    const float* queries = &joined_[row * (d.heads + 2 * d.key_value_heads) * d.head_dim];
    for (int64_t head = shared * group; head < (shared + 1) * group; ++head) {
        Seen* state = seen(row, head, part);
        *state = {-INFINITY, 0};
        std::fill_n(state->values(), d.head_dim, 0.0f);
    }
    int64_t places[PLACES];
    for (int64_t begin = first; begin < end; begin += PLACES) {
        const int64_t count = std::min(PLACES, end - begin);
        find_places(row, begin, count, shared * d.head_dim, places);
        for (int64_t head = shared * group; head < (shared + 1) * group; ++head)
            kernels_.attend(queries + head * d.head_dim, layer.keys, layer.values, places, count, d.head_dim,
                            layer.scale, seen(row, head, part));
    }
}

void Step::merge_parts(const HanbitLinear& next) {
    for (int row = 0; row < rows_; ++row)
        for (int64_t head = 0; head < decoder_.heads; ++head) merge_head(row, head);
    quantise(next, attended_);
}

void Step::merge_head(int row, int64_t head) {
    const int64_t head_dim = decoder_.head_dim;
    float* output = &attended_[(row * decoder_.heads + head) * head_dim];
    float largest = -INFINITY, sum = 0;
    for (int part = 0; part < num_parts_; ++part) largest = std::max(largest, seen(row, head, part)->largest);
    std::fill_n(output, head_dim, 0.0f);
    for (int part = 0; part < num_parts_; ++part) {
        Seen* state = seen(row, head, part);
        const float factor = expf(state->largest - largest);
        sum += state->sum * factor;
        for (int64_t i = 0; i < head_dim; ++i) output[i] += state->values()[i] * factor;
    }
    for (int64_t i = 0; i < head_dim; ++i) output[i] /= sum;
}

}  // namespace hanbit
