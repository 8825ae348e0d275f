// Which of the compiled instruction sets this processor has, asked when the library is loaded.

#include <string.h>

#include "kernels.h"

#define DECLARE(set)                       \
    namespace set {                        \
    extern const hanbit::Kernels TABLE;    \
    }
DECLARE(set_baseline)
#if defined(__x86_64__)
DECLARE(set_avx2)
DECLARE(set_avx512)
#endif

namespace hanbit {

const Kernels* find_kernels(const char* name) {
    const auto is_wanted = [name](const Kernels& kernels) { return name == nullptr || !strcmp(name, kernels.name); };
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (has_avx2 && __builtin_cpu_supports("avx512f") && is_wanted(set_avx512::TABLE)) return &set_avx512::TABLE;
    if (has_avx2 && is_wanted(set_avx2::TABLE)) return &set_avx2::TABLE;
#endif
    return is_wanted(set_baseline::TABLE) ? &set_baseline::TABLE : nullptr;
}

}  // namespace hanbit
