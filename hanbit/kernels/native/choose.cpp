// Which of the compiled instruction sets this processor has, asked when the library is loaded.

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include "kernels.h"

#define DECLARE(set)                       \
    namespace set {                        \
    extern const hanbit::Kernels TABLE;    \
    }
DECLARE(set_baseline)
#if defined(__x86_64__)
DECLARE(set_avx2)
DECLARE(set_avx512)
DECLARE(set_avx512vnni)
#elif defined(__aarch64__)
DECLARE(set_neondot)
#endif

namespace hanbit {
namespace {

#if defined(__x86_64__)
// Compilers of some years do not know this one by name
bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29));
}
#elif defined(__aarch64__)
// Products of four int8 numbers in one instruction: every Apple processor has them, and most servers
bool has_dot_products() {
#if defined(__APPLE__)
    return true;
#elif defined(__linux__)
    constexpr unsigned long ASIMDDP = 1ul << 20;  // HWCAP_ASIMDDP, which older headers do not name
    return getauxval(AT_HWCAP) & ASIMDDP;
#else
    return false;
#endif
}
#endif

}  // namespace

const Kernels* find_kernels(const char* name) {
    const auto is_wanted = [name](const Kernels& kernels) { return name == nullptr || !strcmp(name, kernels.name); };
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f");
    const bool has_vnni = has_avx512 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512vnni");
    if (has_vnni && is_wanted(set_avx512vnni::TABLE)) return &set_avx512vnni::TABLE;
    if (has_avx512 && is_wanted(set_avx512::TABLE)) return &set_avx512::TABLE;
    if (has_avx2 && is_wanted(set_avx2::TABLE)) return &set_avx2::TABLE;
#elif defined(__aarch64__)
    if (has_dot_products() && is_wanted(set_neondot::TABLE)) return &set_neondot::TABLE;
#endif
    return is_wanted(set_baseline::TABLE) ? &set_baseline::TABLE : nullptr;
}

}  // namespace hanbit
