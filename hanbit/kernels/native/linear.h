// A linear layer of a few rows, in chunks of outputs that threads share out.
#pragma once

#include <stdint.h>

#include "kernels.h"
#include "team.h"

extern "C" {

struct HanbitLinear {
    const float* weight;  // [out, in]
    const float* bias;    // [out], or null
    int64_t in, out;
};
}

namespace hanbit {

// Outputs of one chunk of a product with `in` inputs
int64_t outs_per_chunk(int64_t in);
int num_chunks(const HanbitLinear& linear);

// input [rows, in] -> its chunk's columns of output [rows, out]
void do_chunk(const Kernels& kernels, const HanbitLinear& linear, const float* input, int rows, int index,
              float* output);

// The whole layer as a piece of work
class LinearWork : public Work {
  public:
    LinearWork(const Kernels& kernels, const HanbitLinear& linear, const float* input, int rows, float* output)
        : kernels_(kernels), linear_(linear), input_(input), rows_(rows), output_(output) {}

    int num_phases() const override { return 1; }
    int num_chunks(int) const override { return hanbit::num_chunks(linear_); }
    void chunk(int, int index) override { do_chunk(kernels_, linear_, input_, rows_, index, output_); }
    void finish(int) override {}

  private:
    const Kernels& kernels_;
    const HanbitLinear& linear_;
    const float* input_;
    int rows_;
    float* output_;
};

}  // namespace hanbit
