// One token of each of a few sequences through a llama-shaped decoder, in one call.
//
// All memory belongs to the caller and stays where it is while a decoder lives. The structs are mirrored in
// hanbit/kernels/structs.py; build.py's digest of these sources keeps the two together.
#pragma once

#include <stdint.h>

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
    float *keys, *values;                         // [blocks, block_size, key_value_heads, head_dim]
    float scale;                                  // of scores
    int64_t window;                               // tokens a query looks back, itself included; 0: all
};

struct HanbitDecoder {
    int64_t num_layers, hidden, heads, key_value_heads, head_dim, inner, block_size;
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

class Step : public Work {
  public:
    Step(const Kernels& kernels, const HanbitDecoder& decoder) : kernels_(kernels), decoder_(decoder) {}

    // tokens, positions [rows], rows <= MOST_ROWS: a sequence each, which gets its token at positions[row]. blocks[row]:
    // those of the cache that hold its positions, from 0 to this one. logits [rows, vocabulary]
    void run(const int64_t* tokens, const int64_t* positions, const int32_t* const* blocks, int rows, float* logits,
             int num_threads);

    int num_phases() const override;
    int num_chunks(int phase) const override;
    void chunk(int phase, int index) override;
    void finish(int phase) override;

  private:
    enum Kind { PROJECTION, ATTENTION, OUTPUT, GATE_UP, DOWN, KINDS };  // of a layer's phases; after them, the head

    void make_room();
    void embed(const int64_t* tokens);
    // For the product that takes it
    void norm(const float* weight, const HanbitLinear& next);
    void add_and_norm(const float* weight, const HanbitLinear& next);
    void quantise(const HanbitLinear& next, Buffer& floats);
    Rows rows_of(Buffer& floats) { return {floats.data(), quantised_.bytes(), rows_}; }
    void take_heads(const HanbitLayer& layer);
    void take_head(float* head, const float* weight, int64_t position);
    void attend(const HanbitLayer& layer, int index);
    void merge_parts(const HanbitLinear& next);
    void merge_head(int row, int64_t head);
    void activate(const HanbitLinear& next);
    // Floats from the beginning of a layer's cache to a position of one of the step's rows
    int64_t place_of(int row, int64_t position) const;
    void find_places(int row, int64_t begin, int64_t count, int64_t offset, int64_t* places) const;
    Seen* seen(int row, int64_t head, int part);

    bool is_head(int phase) const { return phase == decoder_.num_layers * KINDS; }
    const HanbitLayer& layer_of(int phase) const { return decoder_.layers[phase / KINDS]; }

    const Kernels& kernels_;
    const HanbitDecoder& decoder_;
    const int64_t* positions_ = nullptr;
    const int32_t* const* blocks_ = nullptr;
    int rows_ = 0, num_parts_ = 0;
    int64_t part_length_ = 0;  // positions
    float* logits_ = nullptr;
    // [rows, ...]; joined_: query, key and value; gate_up_: gate and up
    Buffer residual_, normed_, joined_, attended_, gate_up_, inner_, added_, seen_;
    Buffer quantised_;  // the input of the product at hand, where it has matrices of blocks
};

}  // namespace hanbit
