/* Sixteen lanes of AVX-512: bfloat16 in memory, float32 in registers. */
#ifndef STREAMWARD_LANES_H
#define STREAMWARD_LANES_H

#include <stdint.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni"))), \
                             apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni")
#endif

#include <immintrin.h>

#define LANES 16
#define UNROLL _Pragma("GCC unroll 16") /* a loop over registers: its sums must not go through memory */
#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bf16;

INLINE __m512 load_bf16(const bf16 *source) {
    __m256i half = _mm256_loadu_si256((const __m256i *)source);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE void store_bf16(bf16 *target, __m512 x) {
    _mm256_storeu_si256((__m256i *)target, (__m256i)_mm512_cvtneps_pbh(x));
}

/* The bits of |x|, whose order as whole numbers is that of the values; what is no number comes out largest. */
INLINE __m512i magnitude_bits(__m512 x) { return _mm512_castps_si512(_mm512_abs_ps(x)); }

INLINE __m512i four_bytes_everywhere(const void *source) {
    int32_t four;
    memcpy(&four, source, sizeof(four));
    return _mm512_set1_epi32(four);
}

INLINE float float_of_bits(uint32_t bits) { return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128((int)bits))); }

/*
 * sums += products of four bytes each, or of pairs of bfloat16. Not the compiler's intrinsics: with them GCC 12 copies
 * and spills sums within the innermost loops.
 */
INLINE __m512i add_products_int8(__m512i sums, __m512i unsigned_bytes, __m512i signed_bytes) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(unsigned_bytes), "v"(signed_bytes));
    return sums;
}

INLINE __m512 add_products_bf16(__m512 sums, __m512i left, __m512i right) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(left), "v"(right));
    return sums;
}

/* The same where the right side is four bytes for all lanes, in memory. */
INLINE __m512i add_products_int8_with(__m512i sums, __m512i unsigned_bytes, const int32_t *signed_bytes) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(unsigned_bytes), "m"(*signed_bytes));
    return sums;
}

/*
 * 2^x for x <= 127, within 2e-7 of its value: Taylor's polynomial of 2^f for f in [-1/2, 1/2].
 * Of a comparison with NaN the second operand comes out: the order keeps NaN, which tells that a guard is damaged.
 */
INLINE __m512 exp2_lanes(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-126.0f), x);
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(1.5403530e-4f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.3333558e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.6181291e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.5504109e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.4022651e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.9314718e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}

/* 2^x for x <= 127, within 4e-6 of its value: a polynomial through Chebyshev's nodes of [-1/2, 1/2]. No number stays none. */
INLINE __m512 exp2_roughly(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(9.6760371e-3f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.5922036e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.4022107e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.9312103e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}

/* log2(x) for a normal x > 0, within 2e-5: the exponent, and a polynomial through Chebyshev's nodes of [1, 2]. */
INLINE __m512 log2_lanes(__m512 x) {
    const __m512 exponent = _mm512_getexp_ps(x);
    const __m512 f = _mm512_sub_ps(_mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src), _mm512_set1_ps(1.0f));
    __m512 y = _mm512_set1_ps(4.3004958e-2f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(-1.8748860e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(4.0947030e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(-7.0648645e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.4414924f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.6514671e-5f));
    return _mm512_add_ps(exponent, y);
}

#endif
