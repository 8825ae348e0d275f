// Threads that share out the chunks of a piece of work, phase by phase.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <vector>

namespace hanbit {

// A piece of work: phases one after another, each of chunks that any thread may do in any order.
struct Work {
    virtual ~Work() = default;
    virtual int num_phases() const = 0;
    virtual int num_chunks(int phase) const = 0;  // at least 1
    virtual void chunk(int phase, int index) = 0;
    virtual void finish(int phase) = 0;  // by one thread, after the last chunk and before the next phase
};

// A phase ends when its chunks are done, not when every thread has come: a thread that gets no core, because another
// program has it, holds nobody up. Waiting threads spin for 50 microseconds, then sleep.
class Team {
  public:
    // The process's own; a fork starts with a new one, for threads are not carried over.
    static Team& instance();

    // Returns when all is done. Calls of several threads take turns.
    void run(Work& work, int num_threads);

  private:
    struct alignas(64) Progress {  // a line of the cache each
        std::atomic<int> next{0}, done{0};
    };

    void take_part(Work& work);
    void do_phase(Work& work, int phase);
    void wait_for(int phase);
    void open(Work& work, int num_threads);
    void close();
    void worker(int index);
    void wait_for_work(unsigned seen);

    std::mutex turn_;  // held by the caller whose work it is
    std::vector<Progress> progress_;
    int num_workers_ = 0;

    std::mutex mutex_;  // of everything below
    std::condition_variable work_came_, phase_ended_, all_left_;
    Work* work_ = nullptr;
    int num_wanted_ = 0, num_inside_ = 0;
    std::atomic<unsigned> num_works_{0};
    std::atomic<int> num_ended_{0};  // phases of this work
    std::atomic<int> num_asleep_{0};
};

}  // namespace hanbit
