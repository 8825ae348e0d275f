// A linear layer in chunks of outputs that threads share out: matrices of one input, side by side, each of its kind.
#pragma once

#include <stdint.h>

#include "buffer.h"
#include "kernels.h"
#include "team.h"

extern "C" {

struct HanbitMatrix {
    const void* weight;  // floats [out, in], or panels of blocks
    int64_t kind;        // hanbit::Kind
    int64_t out;
};

struct HanbitLinear {
    HanbitMatrix matrices[3];
    int64_t num_matrices;
    const float* bias;  // [out], or null
    int64_t in, out;    // of all matrices together
};
}

namespace hanbit {

// Chunks depend on the number of threads; what is computed does not.
int num_chunks(const HanbitLinear& linear, int num_threads);
bool takes_blocks(const HanbitLinear& linear);

// Rows [rows, in] for products: as they are, and quantised for matrices of blocks.
struct Rows {
    const float* floats;
    const uint8_t* blocks;
    int64_t count;
};

// rows -> a chunk's columns of output [rows, out]
void do_chunk(const Kernels& kernels, const HanbitLinear& linear, const Rows& rows, int num_threads, int index,
              float* output);

// Row `index` of a matrix [out, in] as floats
void take_row(const Kernels& kernels, const HanbitMatrix& matrix, int64_t in, int64_t index, float* output);

// The whole layer as a piece of work: quantise the input, if need be, then multiply
class LinearWork : public Work {
  public:
    LinearWork(const Kernels& kernels, const HanbitLinear& linear, const float* input, int64_t rows, float* output,
               int num_threads);

    int num_phases() const override { return takes_blocks(linear_) ? 2 : 1; }
    int num_chunks(int phase) const override;
    void chunk(int phase, int index) override;
    void finish(int) override {}

  private:
    bool is_quantising(int phase) const { return phase == 0 && takes_blocks(linear_); }

    const Kernels& kernels_;
    const HanbitLinear& linear_;
    const float* input_;
    int64_t rows_;
    float* output_;
    int num_threads_;
    Buffer blocks_;
};

}  // namespace hanbit
