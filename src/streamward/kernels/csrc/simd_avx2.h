/* AVX2 with FMA, and AVX-VNNI: see simd.h. */
#include <immintrin.h>

typedef struct {
    __m256 low, high;
} vf;

typedef struct {
    __m256i low, high;
} vi;

typedef vi vm; /* all bits of a lane */

#define PANEL_LANES 1
#define ATTEND_ROWS 4 /* query rows computed together */
#define ATTEND_LARGE 4
#define ATTEND_WIDTH(rows) ((rows) <= 3 ? 2 : 1) /* vf of each row: sums that do not wait for each other */
#define ATTEND_WIDTH_DOT(rows) ((rows) <= 3 ? 2 : 1)
#define ATTEND_GROUPED 1 /* vf that are widened together */
#ifdef UNIT_AVXVNNI
#define ROWS_INT8 6
#define WEIGHT_ZERO 128
#else
#define ROWS_INT8 4
#define WEIGHT_ZERO 0
#endif
#define ROWS_BF16 4
#define AHEAD(rows) 6144 /* bytes of weights that are asked for in advance */

#define PAIR_F(f, a, b) ((vf){f((a).low, (b).low), f((a).high, (b).high)})
#define PAIR_I(f, a, b) ((vi){f((a).low, (b).low), f((a).high, (b).high)})

INLINE vf vf_load(const float *source) { return (vf){_mm256_loadu_ps(source), _mm256_loadu_ps(source + 8)}; }
INLINE void vf_store(float *target, vf x) {
    _mm256_storeu_ps(target, x.low);
    _mm256_storeu_ps(target + 8, x.high);
}
INLINE vf vf_set1(float x) {
    const __m256 all = _mm256_set1_ps(x);
    return (vf){all, all};
}
INLINE vf vf_zero(void) { return (vf){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
INLINE vf vf_add(vf a, vf b) { return PAIR_F(_mm256_add_ps, a, b); }
INLINE vf vf_sub(vf a, vf b) { return PAIR_F(_mm256_sub_ps, a, b); }
INLINE vf vf_mul(vf a, vf b) { return PAIR_F(_mm256_mul_ps, a, b); }
INLINE vf vf_div(vf a, vf b) { return PAIR_F(_mm256_div_ps, a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) {
    return (vf){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
INLINE vf vf_fms(vf a, vf b, vf c) {
    return (vf){_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)};
}
INLINE vf vf_max(vf a, vf b) { return PAIR_F(_mm256_max_ps, a, b); }
INLINE vf vf_min(vf a, vf b) { return PAIR_F(_mm256_min_ps, a, b); }
INLINE vf vf_round(vf x) {
    return (vf){_mm256_round_ps(x.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                _mm256_round_ps(x.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
INLINE vi vf_to_int(vf x) { return (vi){_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)}; }
INLINE vi vf_bits(vf x) { return (vi){_mm256_castps_si256(x.low), _mm256_castps_si256(x.high)}; }

INLINE vi vi_load(const void *source) {
    return (vi){_mm256_loadu_si256((const __m256i *)source), _mm256_loadu_si256((const __m256i *)source + 1)};
}
INLINE void vi_store(void *target, vi x) {
    _mm256_storeu_si256((__m256i *)target, x.low);
    _mm256_storeu_si256((__m256i *)target + 1, x.high);
}
INLINE vi vi_set1(int32_t x) {
    const __m256i all = _mm256_set1_epi32(x);
    return (vi){all, all};
}
INLINE vi vi_zero(void) { return (vi){_mm256_setzero_si256(), _mm256_setzero_si256()}; }
INLINE vi vi_add(vi a, vi b) { return PAIR_I(_mm256_add_epi32, a, b); }
INLINE vi vi_sub(vi a, vi b) { return PAIR_I(_mm256_sub_epi32, a, b); }
INLINE vi vi_and(vi a, vi b) { return PAIR_I(_mm256_and_si256, a, b); }
INLINE vi vi_or(vi a, vi b) { return PAIR_I(_mm256_or_si256, a, b); }
INLINE vi vi_max(vi a, vi b) { return PAIR_I(_mm256_max_epi32, a, b); }
INLINE vi vi_shift_left(vi x, const int count) {
    return (vi){_mm256_slli_epi32(x.low, count), _mm256_slli_epi32(x.high, count)};
}
INLINE vi vi_shift_right(vi x, const int count) {
    return (vi){_mm256_srli_epi32(x.low, count), _mm256_srli_epi32(x.high, count)};
}
INLINE vf vi_to_float(vi x) { return (vf){_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }
INLINE vf vi_as_float(vi x) { return (vf){_mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high)}; }

INLINE int32_t vi_reduce_max(vi x) {
    const __m256i by_8 = _mm256_max_epi32(x.low, x.high);
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(by_8), _mm256_extracti128_si256(by_8, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

INLINE int32_t vi_reduce_add(vi x) {
    const __m256i by_8 = _mm256_add_epi32(x.low, x.high);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(by_8), _mm256_extracti128_si256(by_8, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

/* The lowest byte of each lane. */
INLINE void vi_store_bytes(void *target, vi x) {
    const __m256i lowest = _mm256_set1_epi32(0xff);
    const __m256i words = _mm256_packus_epi32(_mm256_and_si256(x.low, lowest), _mm256_and_si256(x.high, lowest));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
    _mm_storeu_si128((__m128i *)target,
                     _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
}

INLINE vi vi_load_int8(const int8_t *source) {
    return (vi){_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)source)),
                _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(source + 8)))};
}

INLINE __m256 scale2_of(__m256 x, __m256 whole) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
INLINE vf vf_scale2(vf x, vf whole) { return PAIR_F(scale2_of, x, whole); }

INLINE vm vm_below(int32_t end) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (vm){_mm256_cmpgt_epi32(_mm256_set1_epi32(end), lanes),
                _mm256_cmpgt_epi32(_mm256_set1_epi32(end), _mm256_add_epi32(lanes, _mm256_set1_epi32(8)))};
}
INLINE vm vm_and_not(vm a, vm b) {
    return (vm){_mm256_andnot_si256(b.low, a.low), _mm256_andnot_si256(b.high, a.high)};
}
INLINE vf vf_select(vm mask, vf a, vf b) {
    return (vf){_mm256_blendv_ps(b.low, a.low, _mm256_castsi256_ps(mask.low)),
                _mm256_blendv_ps(b.high, a.high, _mm256_castsi256_ps(mask.high))};
}

INLINE __m256 widen_bf16(__m128i half) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
INLINE vf vf_load_bf16(const bf16 *source) {
    return (vf){widen_bf16(_mm_loadu_si128((const __m128i *)source)),
                widen_bf16(_mm_loadu_si128((const __m128i *)source + 1))};
}

INLINE __m256i round_to_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
    const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
    const __m256i is_nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
    const __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude);
    rounded = _mm256_blendv_epi8(rounded, _mm256_or_si256(upper, _mm256_set1_epi32(0x40)), is_nan);
    return _mm256_blendv_epi8(rounded, _mm256_and_si256(upper, _mm256_set1_epi32(0x8000)), is_small);
}
INLINE void vf_store_bf16(bf16 *target, vf x) {
    const __m256i words = _mm256_packus_epi32(round_to_bf16(x.low), round_to_bf16(x.high));
    _mm256_storeu_si256((__m256i *)target, _mm256_permute4x64_epi64(words, 0xd8));
}

INLINE float vf_reduce_add(vf x) {
    const __m256 by_8 = _mm256_add_ps(x.low, x.high);
    const __m128 by_4 = _mm_add_ps(_mm256_castps256_ps128(by_8), _mm256_extractf128_ps(by_8, 1));
    const __m128 by_2 = _mm_add_ps(by_4, _mm_movehl_ps(by_4, by_4));
    return _mm_cvtss_f32(_mm_add_ss(by_2, _mm_shuffle_ps(by_2, by_2, 1)));
}

INLINE __m256 butterfly_of(__m256 x, const int distance) {
    const __m256 by_1 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1), by_2 = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    const __m256 by_4 = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    if (distance == 1) return _mm256_fmadd_ps(x, by_1, _mm256_permute_ps(x, 0xb1));
    if (distance == 2) return _mm256_fmadd_ps(x, by_2, _mm256_permute_ps(x, 0x4e));
    return _mm256_fmadd_ps(x, by_4, _mm256_permute2f128_ps(x, x, 1));
}
INLINE vf butterfly(vf x, const int distance) {
    if (distance == 8) return (vf){_mm256_add_ps(x.low, x.high), _mm256_sub_ps(x.low, x.high)};
    return (vf){butterfly_of(x.low, distance), butterfly_of(x.high, distance)};
}

#ifdef UNIT_AVXVNNI
INLINE __m256i dot_fours(__m256i sums, __m256i unsigned_bytes, __m256i signed_bytes) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(unsigned_bytes), "x"(signed_bytes));
    return sums;
}
INLINE vi dot_weights(vi sums, vi w, const void *x) {
    const __m256i four = _mm256_set1_epi32(four_bytes(x));
    return (vi){dot_fours(sums.low, w.low, four), dot_fours(sums.high, w.high, four)};
}
#else
/* Sums of two products stay within 16 bits: one side has at most 127, and 2 * 127 * 127 < 32768. */
INLINE __m256i dot_fours(__m256i sums, __m256i unsigned_bytes, __m256i signed_bytes) {
    const __m256i pairs = _mm256_maddubs_epi16(unsigned_bytes, signed_bytes);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
INLINE __m256i dot_signed(__m256i sums, __m256i w, __m256i x) {
    return dot_fours(sums, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}
INLINE vi dot_weights(vi sums, vi w, const void *x) {
    const __m256i four = _mm256_set1_epi32(four_bytes(x));
    return (vi){dot_signed(sums.low, w.low, four), dot_signed(sums.high, w.high, four)};
}
#endif
#define dot_weights_once dot_weights

INLINE vi dot_values(vi sums, vi v, const void *w) {
    const __m256i four = _mm256_set1_epi32(four_bytes(w));
    return (vi){dot_fours(sums.low, four, v.low), dot_fours(sums.high, four, v.high)};
}

INLINE void prefetch(const void *source) { _mm_prefetch((const char *)source, _MM_HINT_T1); }
INLINE void prefetch_near(const void *source) { _mm_prefetch((const char *)source, _MM_HINT_T0); }

INLINE float vf_reduce_max(vf x) {
    const __m256 by_8 = _mm256_max_ps(x.low, x.high);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(by_8), _mm256_extractf128_ps(by_8, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}
INLINE vf vf_max_of_rows(const int rows, const vf *x) {
    float largest[LANES] = {0};
    UNROLL for (int r = 0; r < rows; r++) largest[r] = vf_reduce_max(x[r]);
    return vf_load(largest);
}
