/* What this machine's processor and system can run. */
#ifndef STREAMWARD_CPU_H
#define STREAMWARD_CPU_H

enum { CPU_AVX2 = 1, CPU_AVXVNNI = 2, CPU_AVX512VNNI = 4, CPU_AVX512BF16 = 8, CPU_DOTPROD = 16, CPU_I8MM = 32 };

int streamward_cpu_features(void);

#endif
