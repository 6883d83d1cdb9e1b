/*
 * Sixteen lanes, whatever the registers: one of AVX-512, two of AVX2, four of NEON, an array. Everything that sums floats is
 * written once against these lanes, so that the order of every sum is the same on all units:
 *
 *   vf  sixteen float32            vi  sixteen int32, or 64 bytes            vm  sixteen truths
 *
 * Products that are added are fused (one rounding) everywhere, and only where the code says so: `-ffp-contract=off`.
 * max(a, b) and min(a, b) give b if either is NaN.
 *
 * Each header defines, besides the plain operations:
 *
 *   PANEL_LANES        vf of outputs that the matrix product computes together
 *   ROWS_INT8, ROWS_BF16   tokens that it computes together
 *   AHEAD(rows)        bytes of weights that are asked for in advance where all rows are taken at once
 *   WEIGHT_ZERO        what is added to weights and keys of 8 bits: 128 where the instruction takes unsigned ones, else 0
 *   dot_weights(sums, w, x)   sums += products of fours: bytes w of 16 x 4 weights as stored, four signed bytes at x
 *   dot_values(sums, v, w)    the same for signed bytes v, and four bytes from 0 to 127 at w
 *   butterfly(x, distance)    lane i: x[i] + x[i ^ distance], or x[i ^ distance] - x[i] where that bit of i is set
 *   vf_reduce_add      lanes 8 apart first, then 4, 2, 1
 *   vf_store_bf16      nearest even; denormal numbers become 0, as in the instruction
 */
#ifndef STREAMWARD_SIMD_H
#define STREAMWARD_SIMD_H

#include <stdint.h>
#include <string.h>

#include "types.h"

#define LANES 16
#ifdef UNIT_SCALAR
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 16") /* a loop over registers: its sums must not go through memory */
#endif
#if defined(UNIT_SCALAR) && (defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__))
#define INLINE static inline /* else sanitizers' compilers take many minutes */
#else
#define INLINE static inline __attribute__((always_inline))
#endif
#define NOINLINE static __attribute__((noinline))

INLINE uint32_t bits_of_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

INLINE float float_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

INLINE int32_t four_bytes(const void *source) {
    int32_t four;
    memcpy(&four, source, sizeof(four));
    return four;
}

#if defined(UNIT_AVX512VNNI) || defined(UNIT_AVX512BF16)
#include "simd_avx512.h"
#elif defined(UNIT_AVX2) || defined(UNIT_AVXVNNI)
#include "simd_avx2.h"
#elif defined(UNIT_DOTPROD) || defined(UNIT_I8MM)
#include "simd_neon.h"
#elif defined(UNIT_SCALAR)
#include "simd_scalar.h"
#else
#error "compile with -DUNIT_..."
#endif

#include "vmath.h"

#endif
