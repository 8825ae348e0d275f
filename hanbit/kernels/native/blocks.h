// Products with weights in ggml's blocks, as blocks.cpp defines them once for each instruction set.
#pragma once

#include "kernels.h"

namespace HANBIT_SET {

void quantise(const float* input, int64_t in, uint8_t* output);
void block_product(hanbit::Kind kind, const uint8_t* input, int64_t rows, const uint8_t* weight, int64_t in,
                   int64_t outs, float* output, int64_t output_stride);
void block_row(hanbit::Kind kind, const uint8_t* weight, int64_t in, int64_t out, float* output);

}  // namespace HANBIT_SET
