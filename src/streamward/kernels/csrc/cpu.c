/*
 * What this machine's processor and system can run. On x86 the processor's word (CPUID) is not enough: the system must save
 * the registers, which XCR0 tells (Intel 64 manual, volume 1, 13.3 and 14.3). Compiled for the baseline, like all that runs
 * before a unit is chosen.
 */
#include "cpu.h"

#if defined(__x86_64__)

#include <cpuid.h>

static unsigned long long enabled_registers(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (unsigned long long)high << 32 | low;
}

int streamward_cpu_features(void) {
    unsigned a, b, c, d;
    int features = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const int has_fma = c >> 12 & 1, has_xgetbv = c >> 27 & 1, has_avx = c >> 28 & 1;
    if (!has_xgetbv || !has_avx || !has_fma) return 0;
    const unsigned long long enabled = enabled_registers();
    if ((enabled & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0; /* xmm, ymm */
    const unsigned max_subleaf = a, b7 = b, c7 = c;
    const unsigned a71 = max_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) ? a : 0;
    if (!(b7 >> 5 & 1)) return 0;
    features |= CPU_AVX2;
    if (a71 >> 4 & 1) features |= CPU_AVXVNNI;
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    if ((enabled & 0xe6) != 0xe6 || (b7 & avx512) != avx512 || !(c7 >> 11 & 1)) return features;
    features |= CPU_AVX512VNNI;
    if (a71 >> 5 & 1) features |= CPU_AVX512BF16;
    return features;
}

#elif defined(__aarch64__) && defined(__linux__)

#include <sys/auxv.h>

int streamward_cpu_features(void) {
    const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    return (first >> 20 & 1 ? CPU_DOTPROD : 0) | (second >> 13 & 1 ? CPU_I8MM : 0);
}

#elif defined(__aarch64__) && defined(__APPLE__)

#include <stddef.h>
#include <sys/sysctl.h>

static int has_feature(const char *name) {
    int value = 0;
    size_t size = sizeof(value);
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value;
}

int streamward_cpu_features(void) {
    return (has_feature("hw.optional.arm.FEAT_DotProd") ? CPU_DOTPROD : 0) |
           (has_feature("hw.optional.arm.FEAT_I8MM") ? CPU_I8MM : 0);
}

#elif defined(__aarch64__) && defined(_WIN32)

#include <windows.h>

int streamward_cpu_features(void) { return IsProcessorFeaturePresent(43) ? CPU_DOTPROD : 0; }

#else

int streamward_cpu_features(void) { return 0; }

#endif
