/* AVX-512: see simd.h. */
#include <immintrin.h>

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;

#define PANEL_LANES 2
#define ROWS_INT8 6
#define ROWS_BF16 12
#define AHEAD(rows) ((rows) == 1 ? 3072 : 5120) /* bytes of weights that are asked for in advance */
#define WEIGHT_ZERO 128
#define ATTEND_ROWS 12 /* query rows computed together */
#define ATTEND_LARGE 8 /* and what is nearest below, but for 2, 3 and 4 */
#define ATTEND_WIDTH(rows) ((rows) <= 3 ? 4 : 2) /* vf of each row: sums that do not wait for each other */
#define ATTEND_WIDTH_DOT(rows) 2 /* the same of products of fours and pairs */
#define ATTEND_GROUPED 2 /* vf that are widened together */
#ifdef UNIT_AVX512BF16
#define HAS_BF16_DOT 1
#endif

INLINE vf vf_load(const float *source) { return _mm512_loadu_ps(source); }
INLINE void vf_store(float *target, vf x) { _mm512_storeu_ps(target, x); }
INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_fms(vf a, vf b, vf c) { return _mm512_fmsub_ps(a, b, c); }
INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf vf_round(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vf vf_scale2(vf x, vf whole) { return _mm512_scalef_ps(x, whole); }
INLINE vi vf_to_int(vf x) { return _mm512_cvtps_epi32(x); }
INLINE vi vf_bits(vf x) { return _mm512_castps_si512(x); }

INLINE vi vi_load(const void *source) { return _mm512_loadu_si512(source); }
INLINE void vi_store(void *target, vi x) { _mm512_storeu_si512(target, x); }
INLINE vi vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
INLINE vi vi_zero(void) { return _mm512_setzero_si512(); }
INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
INLINE vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
INLINE vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
INLINE vi vi_max(vi a, vi b) { return _mm512_max_epi32(a, b); }
INLINE vi vi_shift_left(vi x, const int count) { return _mm512_slli_epi32(x, count); }
INLINE vi vi_shift_right(vi x, const int count) { return _mm512_srli_epi32(x, count); }
INLINE vf vi_to_float(vi x) { return _mm512_cvtepi32_ps(x); }
INLINE vf vi_as_float(vi x) { return _mm512_castsi512_ps(x); }
INLINE int32_t vi_reduce_max(vi x) { return _mm512_reduce_max_epi32(x); }
INLINE int32_t vi_reduce_add(vi x) { return _mm512_reduce_add_epi32(x); }
INLINE void vi_store_bytes(void *target, vi x) { _mm_storeu_si128((__m128i *)target, _mm512_cvtepi32_epi8(x)); }
INLINE vi vi_load_int8(const int8_t *source) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)source));
}

INLINE vm vm_below(int32_t end) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_cmplt_epi32_mask(lanes, _mm512_set1_epi32(end));
}
INLINE vm vm_and_not(vm a, vm b) { return (vm)(a & ~b); }
INLINE vf vf_select(vm mask, vf a, vf b) { return _mm512_mask_mov_ps(b, mask, a); }

INLINE vf vf_load_bf16(const bf16 *source) {
    const __m256i half = _mm256_loadu_si256((const __m256i *)source);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE void vf_store_bf16(bf16 *target, vf x) {
#ifdef UNIT_AVX512BF16
    _mm256_storeu_si256((__m256i *)target, (__m256i)_mm512_cvtneps_pbh(x));
#else
    const __m512i bits = _mm512_castps_si512(x), magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
    const __mmask16 is_nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
    const __mmask16 is_small = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(0x00800000));
    rounded = _mm512_mask_or_epi32(rounded, is_nan, _mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    rounded = _mm512_mask_and_epi32(rounded, is_small, _mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x8000));
    _mm256_storeu_si256((__m256i *)target, _mm512_cvtepi32_epi16(rounded));
#endif
}

INLINE float vf_reduce_add(vf x) {
    const __m256 by_8 = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 by_4 = _mm_add_ps(_mm256_castps256_ps128(by_8), _mm256_extractf128_ps(by_8, 1));
    const __m128 by_2 = _mm_add_ps(by_4, _mm_movehl_ps(by_4, by_4));
    return _mm_cvtss_f32(_mm_add_ss(by_2, _mm_shuffle_ps(by_2, by_2, 1)));
}

INLINE vf butterfly(vf x, const int distance) {
    const __m512 ones = _mm512_set1_ps(1.0f), minus = _mm512_set1_ps(-1.0f);
    switch (distance) {
    case 1: return _mm512_fmadd_ps(x, _mm512_mask_mov_ps(ones, 0xaaaa, minus), _mm512_permute_ps(x, 0xb1));
    case 2: return _mm512_fmadd_ps(x, _mm512_mask_mov_ps(ones, 0xcccc, minus), _mm512_permute_ps(x, 0x4e));
    case 4: return _mm512_fmadd_ps(x, _mm512_mask_mov_ps(ones, 0xf0f0, minus), _mm512_shuffle_f32x4(x, x, 0xb1));
    default: return _mm512_fmadd_ps(x, _mm512_mask_mov_ps(ones, 0xff00, minus), _mm512_shuffle_f32x4(x, x, 0x4e));
    }
}

/* Not the compiler's intrinsics: with them GCC 12 copies and spills sums within the innermost loops. */
INLINE vi dot_weights(vi sums, vi w, const void *x) {
    const __m512i four = _mm512_set1_epi32(four_bytes(x));
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(four));
    return sums;
}

/* The same where x is used once. */
INLINE vi dot_weights_once(vi sums, vi w, const void *x) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(w), "m"(*(const int32_t *)x));
    return sums;
}

INLINE vi dot_values(vi sums, vi v, const void *w) {
    const __m512i four = _mm512_set1_epi32(four_bytes(w));
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(four), "v"(v));
    return sums;
}

#ifdef HAS_BF16_DOT
INLINE vf dot_pairs(vf sums, vi w, const void *x) {
    const __m512i pair = _mm512_set1_epi32(four_bytes(x));
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(w), "v"(pair));
    return sums;
}
#endif

INLINE void prefetch(const void *source) { _mm_prefetch((const char *)source, _MM_HINT_T1); }
INLINE void prefetch_near(const void *source) { _mm_prefetch((const char *)source, _MM_HINT_T0); }

/* Lane r is the largest of x[r], for up to 12 rows; the lanes behind `rows` are of the first. */
INLINE vf vf_max_of_rows(const int rows, const vf *x) {
    __m512 of_2[8], of_4[4], of_8[2];
    UNROLL for (int i = 0; i < 8; i++) {
        const __m512 left = x[2 * i < rows ? 2 * i : 0], right = x[2 * i + 1 < rows ? 2 * i + 1 : 0];
        of_2[i] = _mm512_max_ps(_mm512_unpacklo_ps(left, right), _mm512_unpackhi_ps(left, right));
    }
    UNROLL for (int i = 0; i < 4; i++) {
        const __m512d left = _mm512_castps_pd(of_2[2 * i]), right = _mm512_castps_pd(of_2[2 * i + 1]);
        const __m512d low = _mm512_unpacklo_pd(left, right), high = _mm512_unpackhi_pd(left, right);
        of_4[i] = _mm512_max_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    }
    UNROLL for (int i = 0; i < 2; i++) {
        const __m512 left = of_4[2 * i], right = of_4[2 * i + 1];
        of_8[i] = _mm512_max_ps(_mm512_shuffle_f32x4(left, right, 0x44), _mm512_shuffle_f32x4(left, right, 0xee));
    }
    return _mm512_max_ps(_mm512_shuffle_f32x4(of_8[0], of_8[1], 0x88), _mm512_shuffle_f32x4(of_8[0], of_8[1], 0xdd));
}
