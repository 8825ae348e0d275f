// Looking at what a cache keeps of a sequence, as attention.cpp defines it once for each instruction set.
#pragma once

#include "kernels.h"

namespace HANBIT_SET {

void keep(hanbit::Kept kept, const float* head, int64_t head_dim, uint8_t* into);
void attend(hanbit::Kept kept, int64_t num_queries, const float* const* queries, const uint8_t* keys,
            const uint8_t* values, const int64_t* places, int64_t count, int64_t head_dim, float scale,
            hanbit::Seen* const* seen);

}  // namespace HANBIT_SET
