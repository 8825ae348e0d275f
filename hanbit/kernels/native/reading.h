// Reading memory and nothing else: what a product that reads weights can reach at most.
#pragma once

#include <stdint.h>

#include <atomic>

#include "team.h"

namespace hanbit {

class ReadWork : public Work {
  public:
    ReadWork(const uint64_t* numbers, int64_t count) : numbers_(numbers), count_(count) {}

    int num_phases() const override { return 1; }
    int num_chunks(int) const override { return static_cast<int>((count_ + CHUNK - 1) / CHUNK); }
    void chunk(int phase, int index) override;
    void finish(int) override {}

    uint64_t found() const { return found_; }

  private:
    static constexpr int64_t CHUNK = 1 << 17;  // numbers: a megabyte

    const uint64_t* numbers_;
    int64_t count_;
    std::atomic<uint64_t> found_{0};
};

}  // namespace hanbit
