// Tokens of any sequences through a llama-shaped decoder, in one call: the next one of each, prompts, or both.
//
// All memory belongs to the caller and stays where it is while a decoder lives. The structs are mirrored in
// hanbit/kernels/structs.py; build.py's digest of these sources keeps the two together.
#pragma once

#include <stdint.h>

#include <vector>

#include "buffer.h"
#include "linear.h"

extern "C" {

struct HanbitLayer {
    const float* attention_norm;                  // [hidden]
    HanbitLinear projection;                      // query, key and value side by side
    const float *query_norm, *key_norm;           // [head_dim], or null
    HanbitLinear output;
    const float* mlp_norm;                        // [hidden]
    HanbitLinear gate_up;                         // gate and up side by side
    HanbitLinear down;
    uint8_t *keys, *values;                       // [blocks, block_size, key_value_heads], heads as they are kept
    float scale;                                  // of scores
    int64_t window;                               // tokens a query looks back, itself included; 0: all
};

struct HanbitDecoder {
    int64_t num_layers, hidden, heads, key_value_heads, head_dim, inner, block_size;
    int64_t kept;                                 // hanbit::Kept: how heads lie in the cache
    float epsilon;
    int64_t rotated;                              // features of a head that turn: pairs (i, i + rotated / 2)
    const float *cosines, *sines;                 // [positions, rotated / 2]
    HanbitMatrix embedding;                       // [vocabulary, hidden]
    const HanbitLayer* layers;
    const float* norm;                            // [hidden]
    HanbitLinear head;
};
}

namespace hanbit {

struct Span {
    int64_t begin, end;
};

// Tokens, a row each. A row's sequence gets its token at positions[row]; blocks[row] are those of the cache that hold
// its positions, from 0 to this one. Rows of one sequence follow each other. wanted: rows whose logits are wanted,
// ascending.
struct Feed {
    const int64_t *tokens, *positions;
    const int32_t* const* blocks;
    int64_t rows;
    const int64_t* wanted;
    int64_t num_wanted;
};

// What a row gets does not depend on the rows beside it, nor on the number of threads.
class Step : public Work {
  public:
    Step(const Kernels& kernels, const HanbitDecoder& decoder) : kernels_(kernels), decoder_(decoder) {}

    // logits [num_wanted, vocabulary]
    void run(const Feed& feed, float* logits, int num_threads);

    int num_phases() const override;
    int num_chunks(int phase) const override;
    void chunk(int phase, int index) override;
    void finish(int phase) override;

  private:
    // Stages of a layer, then the head. What follows a stage row by row is done by the thread that ended it, or, of
    // many rows, in a phase of its own.
    enum Kind { PROJECTION, ATTENTION, OUTPUT, GATE_UP, DOWN, KINDS };

    void run_tile(const Feed& feed);
    void make_room();
    int num_layer_stages() const { return static_cast<int>(decoder_.num_layers * KINDS); }
    int stage_of(int phase) const { return are_many_ ? phase / 2 : phase; }
    bool is_of_rows(int phase) const { return are_many_ && phase % 2 == 1; }
    bool is_head(int stage) const { return stage == num_layer_stages(); }
    bool is_last(int stage) const { return stage + 1 == num_layer_stages(); }
    int64_t num_rows_after(int stage) const { return is_last(stage) ? feed_.num_wanted : feed_.rows; }
    const HanbitLayer& layer_of(int stage) const { return decoder_.layers[stage / KINDS]; }

    void after(int stage, int64_t place);
    void add(int64_t row);
    // For the product that takes it, as its row `place`
    void norm(const float* weight, const HanbitLinear& next, int64_t row, int64_t place);
    void quantise(const HanbitLinear& next, Buffer& floats, int64_t row);
    void activate(const HanbitLinear& next, int64_t row);
    Rows rows_of(Buffer& floats, int64_t count) { return {floats.data(), quantised_.bytes(), count}; }

    void take_heads(const HanbitLayer& layer, int64_t row);
    void take_head(float* head, const float* weight, int64_t position);
    void find_runs();
    void attend(const HanbitLayer& layer, int64_t index);
    void attend_all(const HanbitLayer& layer, const Span& rows, int64_t shared);
    void attend_part(const HanbitLayer& layer, const Span& rows, int64_t shared, int64_t part, int64_t slot);
    void clear(int64_t row, int64_t head, int64_t slot);
    void fold(int64_t row, int64_t head, int64_t slot);
    void merge_parts(const HanbitLayer& layer, int64_t row);
    Span part_of(const HanbitLayer& layer, int64_t row, int64_t part) const;
    int64_t num_parts(int64_t row) const;
    Seen* seen(int64_t row, int64_t head, int64_t slot);
    hanbit::Kept kept() const { return static_cast<hanbit::Kept>(decoder_.kept); }
    int64_t kept_bytes() const { return hanbit::kept_bytes(kept(), decoder_.head_dim); }
    // Bytes from the beginning of a layer's cache to a position of one of the rows
    int64_t place_of(int64_t row, int64_t position) const;
    void find_places(int64_t row, const Span& positions, int64_t offset, int64_t* places) const;

    const Kernels& kernels_;
    const HanbitDecoder& decoder_;
    Feed feed_{};          // the tile at hand
    int num_threads_ = 1;
    int64_t first_ = 0;    // its first row, as `wanted` counts
    bool are_many_ = false;
    std::vector<Span> runs_;  // of many rows: those that follow each other in a sequence and look at keys together
    int64_t most_parts_ = 0, slots_ = 0;  // of a head: its total, then parts
    float* logits_ = nullptr;
    // [rows, ...]; joined_: query, key and value; gate_up_: gate and up
    Buffer residual_, normed_, joined_, attended_, gate_up_, inner_, added_, seen_;
    Buffer quantised_;  // the input of the product at hand, where it has matrices of blocks
};

}  // namespace hanbit
