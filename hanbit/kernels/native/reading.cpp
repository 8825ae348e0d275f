#include "reading.h"

#include <algorithm>

namespace hanbit {

void ReadWork::chunk(int, int index) {
    constexpr int64_t LANES = 8;
    uint64_t sums[LANES] = {};
    const int64_t end = std::min((index + 1) * CHUNK, count_);
    int64_t i = index * CHUNK;
    for (; i + LANES <= end; i += LANES)
        for (int64_t lane = 0; lane < LANES; ++lane) sums[lane] ^= numbers_[i + lane];
    for (; i < end; ++i) sums[0] ^= numbers_[i];
    for (int64_t lane = 1; lane < LANES; ++lane) sums[0] ^= sums[lane];
    found_ ^= sums[0];
}

}  // namespace hanbit
