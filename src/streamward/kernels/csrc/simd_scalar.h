/* Plain C: see simd.h. The reference for all other units. */
#include <math.h>

typedef struct {
    float lane[LANES];
} vf;

typedef union {
    int32_t lane[LANES];
    int8_t byte[LANES * 4];
} vi;

typedef struct {
    uint32_t lane[LANES];
} vm;

#define PANEL_LANES 1
#define ROWS_INT8 1
#define ROWS_BF16 1
#define AHEAD(rows) 6144 /* bytes of weights that are asked for in advance */
#define WEIGHT_ZERO 0
#define ATTEND_ROWS 1 /* query rows computed together */
#define ATTEND_LARGE 1
#define ATTEND_WIDTH(rows) 1
#define ATTEND_WIDTH_DOT(rows) 1
#define ATTEND_GROUPED 1
#define ROUND_MAGIC 12582912.0f /* 1.5 * 2^23: a sum with it is an integer, in its lowest bits */

#define EACH(i) for (int i = 0; i < LANES; i++)
#define LANES_OF(type, expression)              \
    do {                                        \
        type each_;                             \
        EACH(i) each_.lane[i] = (expression);   \
        return each_;                           \
    } while (0)

INLINE vf vf_load(const float *source) { LANES_OF(vf, source[i]); }
INLINE void vf_store(float *target, vf x) { memcpy(target, x.lane, sizeof(x.lane)); }
INLINE vf vf_set1(float x) { LANES_OF(vf, x); }
INLINE vf vf_zero(void) { return vf_set1(0.0f); }
INLINE vf vf_add(vf a, vf b) { LANES_OF(vf, a.lane[i] + b.lane[i]); }
INLINE vf vf_sub(vf a, vf b) { LANES_OF(vf, a.lane[i] - b.lane[i]); }
INLINE vf vf_mul(vf a, vf b) { LANES_OF(vf, a.lane[i] * b.lane[i]); }
INLINE vf vf_div(vf a, vf b) { LANES_OF(vf, a.lane[i] / b.lane[i]); }
INLINE vf vf_fma(vf a, vf b, vf c) { LANES_OF(vf, fmaf(a.lane[i], b.lane[i], c.lane[i])); }
INLINE vf vf_fms(vf a, vf b, vf c) { LANES_OF(vf, fmaf(a.lane[i], b.lane[i], -c.lane[i])); }
INLINE vf vf_max(vf a, vf b) { LANES_OF(vf, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
INLINE vf vf_min(vf a, vf b) { LANES_OF(vf, a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]); }
INLINE vf vf_round(vf x) { LANES_OF(vf, x.lane[i] + ROUND_MAGIC - ROUND_MAGIC); }
INLINE vi vf_to_int(vf x) {
    LANES_OF(vi, (int32_t)(bits_of_float(x.lane[i] + ROUND_MAGIC) - bits_of_float(ROUND_MAGIC)));
}
INLINE vi vf_bits(vf x) { LANES_OF(vi, (int32_t)bits_of_float(x.lane[i])); }

INLINE vi vi_load(const void *source) {
    vi x;
    memcpy(&x, source, sizeof(x));
    return x;
}
INLINE void vi_store(void *target, vi x) { memcpy(target, &x, sizeof(x)); }
INLINE vi vi_set1(int32_t x) { LANES_OF(vi, x); }
INLINE vi vi_zero(void) { return vi_set1(0); }
INLINE vi vi_add(vi a, vi b) { LANES_OF(vi, (int32_t)((uint32_t)a.lane[i] + (uint32_t)b.lane[i])); }
INLINE vi vi_sub(vi a, vi b) { LANES_OF(vi, (int32_t)((uint32_t)a.lane[i] - (uint32_t)b.lane[i])); }
INLINE vi vi_and(vi a, vi b) { LANES_OF(vi, a.lane[i] & b.lane[i]); }
INLINE vi vi_or(vi a, vi b) { LANES_OF(vi, a.lane[i] | b.lane[i]); }
INLINE vi vi_max(vi a, vi b) { LANES_OF(vi, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
INLINE vi vi_shift_left(vi x, const int count) { LANES_OF(vi, (int32_t)((uint32_t)x.lane[i] << count)); }
INLINE vi vi_shift_right(vi x, const int count) { LANES_OF(vi, (int32_t)((uint32_t)x.lane[i] >> count)); }
INLINE vf vi_to_float(vi x) { LANES_OF(vf, (float)x.lane[i]); }
INLINE vf vi_as_float(vi x) { LANES_OF(vf, float_of_bits((uint32_t)x.lane[i])); }
INLINE int32_t vi_reduce_max(vi x) {
    int32_t largest = x.lane[0];
    EACH(i) largest = x.lane[i] > largest ? x.lane[i] : largest;
    return largest;
}
INLINE int32_t vi_reduce_add(vi x) {
    int32_t sum = 0;
    EACH(i) sum += x.lane[i];
    return sum;
}
INLINE void vi_store_bytes(void *target, vi x) {
    EACH(i) ((uint8_t *)target)[i] = (uint8_t)((uint32_t)x.lane[i] & 0xff);
}
INLINE vi vi_load_int8(const int8_t *source) { LANES_OF(vi, source[i]); }

INLINE vf vf_scale2(vf x, vf whole) {
    LANES_OF(vf, x.lane[i] * float_of_bits((bits_of_float(whole.lane[i] + ROUND_MAGIC) + 127u) << 23));
}

INLINE vm vm_below(int32_t end) { LANES_OF(vm, i < end); }
INLINE vm vm_and_not(vm a, vm b) { LANES_OF(vm, a.lane[i] & (b.lane[i] ^ 1u)); }
INLINE vf vf_select(vm mask, vf a, vf b) { LANES_OF(vf, mask.lane[i] ? a.lane[i] : b.lane[i]); }

INLINE vf vf_load_bf16(const bf16 *source) { LANES_OF(vf, float_of_bits((uint32_t)source[i] << 16)); }

INLINE bf16 round_to_bf16(float x) {
    const uint32_t bits = bits_of_float(x), magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (bf16)(bits >> 16 | 0x40u);
    if (magnitude < 0x00800000u) return (bf16)(bits >> 16 & 0x8000u);
    return (bf16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

INLINE void vf_store_bf16(bf16 *target, vf x) { EACH(i) target[i] = round_to_bf16(x.lane[i]); }

INLINE float vf_reduce_add(vf x) {
    for (int distance = LANES / 2; distance; distance /= 2)
        for (int i = 0; i < distance; i++) x.lane[i] += x.lane[i + distance];
    return x.lane[0];
}

INLINE vf butterfly(vf x, const int distance) {
    LANES_OF(vf, i & distance ? x.lane[i ^ distance] - x.lane[i] : x.lane[i] + x.lane[i ^ distance]);
}

INLINE vi dot_weights(vi sums, vi w, const void *x) {
    const int8_t *four = (const int8_t *)x;
    LANES_OF(vi, sums.lane[i] + w.byte[4 * i] * four[0] + w.byte[4 * i + 1] * four[1] + w.byte[4 * i + 2] * four[2] +
                     w.byte[4 * i + 3] * four[3]);
}
#define dot_weights_once dot_weights
INLINE vi dot_values(vi sums, vi v, const void *w) { return dot_weights(sums, v, w); }

INLINE void prefetch(const void *source) { (void)source; }
INLINE void prefetch_near(const void *source) { (void)source; }

INLINE vf vf_max_of_rows(const int rows, const vf *x) {
    vf largest = vf_zero();
    for (int r = 0; r < rows; r++) {
        largest.lane[r] = x[r].lane[0];
        EACH(i) largest.lane[r] = largest.lane[r] > x[r].lane[i] ? largest.lane[r] : x[r].lane[i];
    }
    return largest;
}
