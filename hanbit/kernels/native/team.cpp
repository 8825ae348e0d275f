#include "team.h"

#include <pthread.h>

#include <chrono>
#include <system_error>
#include <thread>

namespace hanbit {
namespace {

constexpr std::chrono::microseconds PATIENCE(50);
constexpr int LOOKS_PER_GLANCE_AT_THE_CLOCK = 64;

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Looks until `is_so` or patience ends; says which.
template <typename Condition>
bool spin_until(Condition is_so) {
    const auto end = std::chrono::steady_clock::now() + PATIENCE;
    do {
        for (int look = 0; look < LOOKS_PER_GLANCE_AT_THE_CLOCK; ++look) {
            if (is_so()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < end);
    return is_so();
}

Team* current = nullptr;  // never deleted: its threads may outlive every static object
std::once_flag made;

void make_anew() { current = new Team; }

}  // namespace

Team& Team::instance() {
    std::call_once(made, [] {
        make_anew();
        pthread_atfork(nullptr, nullptr, make_anew);
    });
    return *current;
}

void Team::run(Work& work, int num_threads) {
    std::lock_guard<std::mutex> turn(turn_);
    std::vector<Progress>(work.num_phases()).swap(progress_);
    open(work, num_threads);
    take_part(work);
    close();
}

void Team::open(Work& work, int num_threads) {
    std::lock_guard<std::mutex> lock(mutex_);
    try {
        for (; num_workers_ < num_threads - 1; ++num_workers_) std::thread(&Team::worker, this, num_workers_).detach();
    } catch (const std::system_error&) {  // no more threads are to be had: those that are here do all
    }
    num_ended_ = 0;
    num_wanted_ = num_threads - 1;
    work_ = &work;
    ++num_works_;
    if (num_wanted_ > 0) work_came_.notify_all();
}

// Whoever has come in must be out before the work's memory is gone; whoever has not may stay away.
void Team::close() {
    std::unique_lock<std::mutex> lock(mutex_);
    work_ = nullptr;
    all_left_.wait(lock, [this] { return num_inside_ == 0; });
}

void Team::worker(int index) {
    unsigned seen = 0;
    while (true) {
        wait_for_work(seen);
        std::unique_lock<std::mutex> lock(mutex_);
        seen = num_works_;
        if (work_ == nullptr || index >= num_wanted_) continue;
        Work& work = *work_;
        ++num_inside_;
        lock.unlock();
        take_part(work);
        lock.lock();
        if (--num_inside_ == 0) all_left_.notify_all();
    }
}

void Team::wait_for_work(unsigned seen) {
    if (spin_until([&] { return num_works_ != seen; })) return;
    std::unique_lock<std::mutex> lock(mutex_);
    work_came_.wait(lock, [&] { return num_works_ != seen; });
}

void Team::take_part(Work& work) {
    for (int phase = 0; phase < work.num_phases(); ++phase) {
        if (num_ended_ > phase) continue;
        do_phase(work, phase);
        wait_for(phase);
    }
}

void Team::do_phase(Work& work, int phase) {
    const int num_chunks = work.num_chunks(phase);
    for (int index; (index = progress_[phase].next++) < num_chunks;) {
        work.chunk(phase, index);
        if (++progress_[phase].done < num_chunks) continue;
        work.finish(phase);
        num_ended_ = phase + 1;
        if (num_asleep_ == 0) continue;
        std::lock_guard<std::mutex> lock(mutex_);  // whoever is about to sleep is asleep by now, or has seen the end
        phase_ended_.notify_all();
    }
}

void Team::wait_for(int phase) {
    const auto has_ended = [&] { return num_ended_ > phase; };
    if (spin_until(has_ended)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    ++num_asleep_;
    phase_ended_.wait(lock, has_ended);
    --num_asleep_;
}

}  // namespace hanbit
