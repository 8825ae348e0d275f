#include "decoder.h"

#include <math.h>
#include <string.h>

#include <algorithm>

namespace hanbit {
namespace {

constexpr int64_t TILE = 256;  // rows that go through all layers together: what they leave behind stays near the cores
constexpr int64_t FEW = 4;     // rows whose small work one thread does, sooner than others could be told of it
constexpr int64_t ROWS_AT_ONCE = 4;  // of small work
constexpr int64_t LONGEST_RUN = 8;   // rows of a prompt that look at keys while these are in the first cache
// Positions that one chunk of attention looks at, at least, in whole looks; a long sequence is cut into about
// MOST_PARTS.
constexpr int64_t LOOK = 64, SHORTEST_PART = 2 * LOOK, MOST_PARTS = 64;

int64_t first_seen(int64_t position, int64_t window) {
    return window == 0 ? 0 : std::max<int64_t>(0, position + 1 - window);
}

int64_t divided_up(int64_t number, int64_t by) { return (number + by - 1) / by; }

int64_t part_length(int64_t position) {
    return std::max(SHORTEST_PART, divided_up(position + 1, MOST_PARTS * LOOK) * LOOK);
}

Span common(const Span& one, const Span& other) {
    return {std::max(one.begin, other.begin), std::min(one.end, other.end)};
}

// Queries that look at the same positions, of one row or of several
struct Fellows {
    static constexpr int64_t MOST = 24;
    const float* queries[MOST];
    Seen* seen[MOST];
    int64_t count = 0;
    Span span = {};

    bool fits(const Span& other) const {
        return count == 0 || (count < MOST && span.begin == other.begin && span.end == other.end);
    }
    void add(const Span& looked_at, const float* query, Seen* state) {
        span = looked_at, queries[count] = query, seen[count++] = state;
    }
};

}  // namespace

void Step::run(const Feed& feed, float* logits, int num_threads) {
    logits_ = logits;
    num_threads_ = num_threads;
    const int64_t *wanted = feed.wanted, *const end = feed.wanted + feed.num_wanted;
    for (first_ = 0; first_ < feed.rows; first_ += TILE) {
        const int64_t rows = std::min(TILE, feed.rows - first_);
        const int64_t* const next = std::lower_bound(wanted, end, first_ + rows);
        run_tile({feed.tokens + first_, feed.positions + first_, feed.blocks + first_, rows, wanted, next - wanted});
        logits_ += (next - wanted) * decoder_.head.out;
        wanted = next;
    }
}

void Step::run_tile(const Feed& feed) {
    feed_ = feed;
    are_many_ = feed.rows > FEW;
    most_parts_ = 0;
    for (int64_t row = 0; row < feed.rows; ++row) most_parts_ = std::max(most_parts_, num_parts(row));
    slots_ = 1 + (are_many_ ? 1 : most_parts_);
    if (are_many_) find_runs();
    make_room();
    const HanbitLayer& first = decoder_.layers[0];
    for (int64_t row = 0; row < feed.rows; ++row) {
        float* residual = &residual_[row * decoder_.hidden];
        take_row(kernels_, decoder_.embedding, decoder_.hidden, feed.tokens[row], residual);
        norm(first.attention_norm, first.projection, row, row);
    }
    Team::instance().run(*this, num_threads_);
}

void Step::make_room() {
    const HanbitDecoder& d = decoder_;
    const int64_t rows = feed_.rows;
    residual_.resize(rows * d.hidden);
    normed_.resize(rows * d.hidden);
    added_.resize(rows * d.hidden);
    joined_.resize(rows * (d.heads + 2 * d.key_value_heads) * d.head_dim);
    attended_.resize(rows * d.heads * d.head_dim);
    gate_up_.resize(rows * 2 * d.inner);
    inner_.resize(rows * d.inner);
    quantised_.resize_bytes(rows * quantised_bytes(std::max({d.hidden, d.heads * d.head_dim, d.inner})));
    seen_.resize(rows * d.heads * slots_ * (d.head_dim + sizeof(Seen) / sizeof(float)));
}

int Step::num_phases() const {
    const bool has_head = feed_.num_wanted > 0;
    if (!are_many_) return num_layer_stages() + has_head;
    return 2 * num_layer_stages() + (has_head ? 1 : -1);  // without a head nothing follows the last product
}

int Step::num_chunks(int phase) const {
    const int stage = stage_of(phase);
    const auto chunks_of = [&](const HanbitLinear& linear) { return hanbit::num_chunks(linear, num_threads_); };
    if (is_head(stage)) return chunks_of(decoder_.head);
    if (is_of_rows(phase)) return static_cast<int>(divided_up(num_rows_after(stage), ROWS_AT_ONCE));
    const HanbitLayer& layer = layer_of(stage);
    switch (stage % KINDS) {
        case PROJECTION: return chunks_of(layer.projection);
        case ATTENTION:
            return static_cast<int>(decoder_.key_value_heads * (are_many_ ? runs_.size() : feed_.rows * most_parts_));
        case OUTPUT: return chunks_of(layer.output);
        case GATE_UP: return chunks_of(layer.gate_up);
        default: return chunks_of(layer.down);
    }
}

void Step::chunk(int phase, int index) {
    const int stage = stage_of(phase);
    const int64_t rows = feed_.rows;
    const auto multiply = [&](const HanbitLinear& linear, const Rows& input, float* output) {
        do_chunk(kernels_, linear, input, num_threads_, index, output);
    };
    if (is_head(stage)) return multiply(decoder_.head, rows_of(normed_, feed_.num_wanted), logits_);
    if (is_of_rows(phase)) {
        const int64_t first = index * ROWS_AT_ONCE, end = std::min(first + ROWS_AT_ONCE, num_rows_after(stage));
        for (int64_t place = first; place < end; ++place) after(stage, place);
        return;
    }
    const HanbitLayer& layer = layer_of(stage);
    switch (stage % KINDS) {
        case PROJECTION: return multiply(layer.projection, rows_of(normed_, rows), joined_.data());
        case ATTENTION: return attend(layer, index);
        case OUTPUT: return multiply(layer.output, rows_of(attended_, rows), added_.data());
        case GATE_UP: return multiply(layer.gate_up, rows_of(normed_, rows), gate_up_.data());
        default: return multiply(layer.down, rows_of(inner_, rows), added_.data());
    }
}

void Step::finish(int phase) {
    const int stage = stage_of(phase);
    if (are_many_ || is_head(stage)) return;
    for (int64_t place = 0; place < num_rows_after(stage); ++place) after(stage, place);
}

// `place` is a row, but for the last stage's: there it is the place of a wanted one.
void Step::after(int stage, int64_t place) {
    const HanbitLayer& layer = layer_of(stage);
    const int64_t row = is_last(stage) ? feed_.wanted[place] - first_ : place;
    switch (stage % KINDS) {
        case PROJECTION: return take_heads(layer, row);
        case ATTENTION: return merge_parts(layer, row);
        case OUTPUT:
            add(row);
            return norm(layer.mlp_norm, layer.gate_up, row, place);
        case GATE_UP: return activate(layer.down, row);
        default:
            add(row);
            if (is_last(stage)) return norm(decoder_.norm, decoder_.head, row, place);
            return norm((&layer + 1)->attention_norm, (&layer + 1)->projection, row, place);
    }
}

void Step::add(int64_t row) {
    const int64_t hidden = decoder_.hidden;
    float *residual = &residual_[row * hidden], *added = &added_[row * hidden];
    for (int64_t i = 0; i < hidden; ++i) residual[i] += added[i];
}

void Step::norm(const float* weight, const HanbitLinear& next, int64_t row, int64_t place) {
    const int64_t hidden = decoder_.hidden;
    kernels_.rms_norm(&residual_[row * hidden], weight, decoder_.epsilon, hidden, &normed_[place * hidden]);
    quantise(next, normed_, place);
}

void Step::quantise(const HanbitLinear& next, Buffer& floats, int64_t row) {
    if (takes_blocks(next))
        kernels_.quantise(&floats[row * next.in], next.in, quantised_.bytes() + row * quantised_bytes(next.in));
}

void Step::activate(const HanbitLinear& next, int64_t row) {
    const int64_t inner = decoder_.inner;
    const float* gate = &gate_up_[row * 2 * inner];
    kernels_.swiglu(gate, gate + inner, inner, &inner_[row * inner]);
    quantise(next, inner_, row);
}

// Query and key heads are turned where they are; keys and values go to the cache.
void Step::take_heads(const HanbitLayer& layer, int64_t row) {
    const HanbitDecoder& d = decoder_;
    const int64_t width = d.key_value_heads * d.head_dim, position = feed_.positions[row];
    float* query = &joined_[row * (d.heads * d.head_dim + 2 * width)];
    float *key = query + d.heads * d.head_dim, *value = key + width;
    for (int64_t head = 0; head < d.heads; ++head) take_head(query + head * d.head_dim, layer.query_norm, position);
    for (int64_t head = 0; head < d.key_value_heads; ++head)
        take_head(key + head * d.head_dim, layer.key_norm, position);
    const int64_t place = place_of(row, position);
    for (int64_t head = 0; head < d.key_value_heads; ++head) {
        kernels_.keep(kept(), key + head * d.head_dim, d.head_dim, layer.keys + place + head * kept_bytes());
        kernels_.keep(kept(), value + head * d.head_dim, d.head_dim, layer.values + place + head * kept_bytes());
    }
}

void Step::take_head(float* head, const float* weight, int64_t position) {
    const int64_t half = decoder_.rotated / 2, angles = position * half;
    if (weight != nullptr) kernels_.rms_norm(head, weight, decoder_.epsilon, decoder_.head_dim, head);
    kernels_.rotate(head, decoder_.cosines + angles, decoder_.sines + angles, half);
}

int64_t Step::place_of(int64_t row, int64_t position) const {
    const int64_t width = decoder_.key_value_heads * kept_bytes(), size = decoder_.block_size;
    return (feed_.blocks[row][position / size] * size + position % size) * width;
}

// Block by block: a division for each position would take as long as its scores.
void Step::find_places(int64_t row, const Span& positions, int64_t offset, int64_t* places) const {
    const int64_t width = decoder_.key_value_heads * kept_bytes(), size = decoder_.block_size;
    for (int64_t position = positions.begin; position < positions.end;) {
        const int64_t first = place_of(row, position) + offset;
        const int64_t run = std::min(positions.end - position, size - position % size);
        for (int64_t i = 0; i < run; ++i) *places++ = first + i * width;
        position += run;
    }
}

int64_t Step::num_parts(int64_t row) const {
    const int64_t position = feed_.positions[row];
    return divided_up(position + 1, part_length(position));
}

// Positions of a part that a row sees; none, if begin >= end
Span Step::part_of(const HanbitLayer& layer, int64_t row, int64_t part) const {
    const int64_t position = feed_.positions[row], length = part_length(position);
    return {std::max(part * length, first_seen(position, layer.window)), std::min((part + 1) * length, position + 1)};
}

Seen* Step::seen(int64_t row, int64_t head, int64_t slot) {
    const int64_t size = decoder_.head_dim + sizeof(Seen) / sizeof(float);
    return reinterpret_cast<Seen*>(&seen_[((row * decoder_.heads + head) * slots_ + slot) * size]);
}

void Step::find_runs() {
    runs_.clear();
    const auto belongs = [this](int64_t row, const Span& run) {
        const int64_t position = feed_.positions[row], first = feed_.positions[run.begin];
        return feed_.blocks[row] == feed_.blocks[run.begin] && position == first + row - run.begin &&
               row - run.begin < LONGEST_RUN && part_length(position) == part_length(first);
    };
    for (int64_t row = 0; row < feed_.rows; ++row) {
        if (row > 0 && belongs(row, runs_.back()))
            runs_.back().end = row + 1;
        else
            runs_.push_back({row, row + 1});
    }
}

// Of few rows a part is a chunk, so that a long sequence keeps all threads busy; of many, a run by a key head.
void Step::attend(const HanbitLayer& layer, int64_t index) {
    const int64_t shared = index % decoder_.key_value_heads, rest = index / decoder_.key_value_heads;
    if (are_many_) return attend_all(layer, runs_[rest], shared);
    const int64_t row = rest / most_parts_, part = rest % most_parts_;
    attend_part(layer, {row, row + 1}, shared, part, 1 + part);
}

void Step::attend_all(const HanbitLayer& layer, const Span& rows, int64_t shared) {
    const int64_t group = decoder_.heads / decoder_.key_value_heads;
    for (int64_t row = rows.begin; row < rows.end; ++row)
        for (int64_t head = shared * group; head < (shared + 1) * group; ++head) clear(row, head, 0);
    for (int64_t part = 0; part < num_parts(rows.end - 1); ++part) {
        attend_part(layer, rows, shared, part, 1);
        for (int64_t row = rows.begin; row < rows.end; ++row) {
            const Span span = part_of(layer, row, part);
            if (span.begin >= span.end) continue;
            for (int64_t head = shared * group; head < (shared + 1) * group; ++head) fold(row, head, 1);
        }
    }
}

// One part of the positions that rows of a sequence see, by all query heads that share a key head. A look is the same
// for each of the rows: what one gets does not depend on the others.
void Step::attend_part(const HanbitLayer& layer, const Span& rows, int64_t shared, int64_t part, int64_t slot) {
    const HanbitDecoder& d = decoder_;
    const int64_t group = d.heads / d.key_value_heads, first = shared * group, end = first + group;
    const Span all = {part_of(layer, rows.begin, part).begin, part_of(layer, rows.end - 1, part).end};
    for (int64_t row = rows.begin; row < rows.end; ++row)
        for (int64_t head = first; head < end; ++head) clear(row, head, slot);
    int64_t places[LOOK];
    for (int64_t from = all.begin / LOOK * LOOK; from < all.end; from += LOOK) {
        const Span look = common({from, from + LOOK}, all);
        find_places(rows.begin, look, shared * kept_bytes(), places);
        Fellows fellows;
        const auto let_look = [&] {
            const Span& span = fellows.span;
            kernels_.attend(kept(), fellows.count, fellows.queries, layer.keys, layer.values,
                            places + (span.begin - look.begin), span.end - span.begin, d.head_dim, layer.scale,
                            fellows.seen);
            fellows.count = 0;
        };
        for (int64_t row = rows.begin; row < rows.end; ++row) {
            const Span seen_now = common(look, part_of(layer, row, part));
            if (seen_now.begin >= seen_now.end) continue;
            const float* queries = &joined_[row * (d.heads + 2 * d.key_value_heads) * d.head_dim];
            for (int64_t head = first; head < end; ++head) {
                if (!fellows.fits(seen_now)) let_look();
                fellows.add(seen_now, queries + head * d.head_dim, seen(row, head, slot));
            }
        }
        if (fellows.count > 0) let_look();
    }
}

void Step::clear(int64_t row, int64_t head, int64_t slot) {
    Seen* state = seen(row, head, slot);
    *state = {-INFINITY, 0};
    std::fill_n(state->values(), decoder_.head_dim, 0.0f);
}

// A part that has seen something goes into the total. Parts come in their order, however they were shared out.
void Step::fold(int64_t row, int64_t head, int64_t slot) {
    Seen *total = seen(row, head, 0), *part = seen(row, head, slot);
    const float largest = std::max(total->largest, part->largest);
    const float before = expf(total->largest - largest), now = expf(part->largest - largest);
    for (int64_t i = 0; i < decoder_.head_dim; ++i)
        total->values()[i] = total->values()[i] * before + part->values()[i] * now;
    *total = {largest, total->sum * before + part->sum * now};
}

void Step::merge_parts(const HanbitLayer& layer, int64_t row) {
    const int64_t head_dim = decoder_.head_dim;
    for (int64_t head = 0; head < decoder_.heads; ++head) {
        if (!are_many_) {
            clear(row, head, 0);
            for (int64_t part = 0; part < num_parts(row); ++part) {
                const Span span = part_of(layer, row, part);
                if (span.begin < span.end) fold(row, head, 1 + part);
            }
        }
        Seen* total = seen(row, head, 0);
        float* output = &attended_[(row * decoder_.heads + head) * head_dim];
        for (int64_t i = 0; i < head_dim; ++i) output[i] = total->values()[i] / total->sum;
    }
    quantise(layer.output, attended_, row);
}

}  // namespace hanbit
