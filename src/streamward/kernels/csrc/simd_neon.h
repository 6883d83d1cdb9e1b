/* NEON with dot products, and with products of 2 x 8 matrices (i8mm): see simd.h. */
#include <arm_neon.h>

typedef struct {
    float32x4_t a, b, c, d;
} vf;

typedef struct {
    int32x4_t a, b, c, d;
} vi;

typedef struct {
    uint32x4_t a, b, c, d;
} vm;

#define PANEL_LANES 1
#define ROWS_INT8 6
#define ROWS_BF16 4
#define AHEAD(rows) 6144 /* bytes of weights that are asked for in advance */
#define WEIGHT_ZERO 0
#define ATTEND_ROWS 6 /* query rows computed together */
#define ATTEND_LARGE 6
#define ATTEND_WIDTH(rows) ((rows) <= 3 ? 2 : 1) /* vf of each row: sums that do not wait for each other */
#define ATTEND_WIDTH_DOT(rows) ((rows) <= 3 ? 2 : 1)
#define ATTEND_GROUPED 1 /* vf that are widened together */
#ifdef UNIT_I8MM
#define HAS_INT8_MATRIX 1
#endif

#define MAP1(type, f, x) ((type){f((x).a), f((x).b), f((x).c), f((x).d)})
#define MAP2(type, f, x, y) ((type){f((x).a, (y).a), f((x).b, (y).b), f((x).c, (y).c), f((x).d, (y).d)})
#define MAP3(type, f, x, y, z) \
    ((type){f((x).a, (y).a, (z).a), f((x).b, (y).b, (z).b), f((x).c, (y).c, (z).c), f((x).d, (y).d, (z).d)})

INLINE vf vf_load(const float *source) {
    return (vf){vld1q_f32(source), vld1q_f32(source + 4), vld1q_f32(source + 8), vld1q_f32(source + 12)};
}
INLINE void vf_store(float *target, vf x) {
    vst1q_f32(target, x.a);
    vst1q_f32(target + 4, x.b);
    vst1q_f32(target + 8, x.c);
    vst1q_f32(target + 12, x.d);
}
INLINE vf vf_set1(float x) {
    const float32x4_t all = vdupq_n_f32(x);
    return (vf){all, all, all, all};
}
INLINE vf vf_zero(void) { return vf_set1(0.0f); }
INLINE vf vf_add(vf a, vf b) { return MAP2(vf, vaddq_f32, a, b); }
INLINE vf vf_sub(vf a, vf b) { return MAP2(vf, vsubq_f32, a, b); }
INLINE vf vf_mul(vf a, vf b) { return MAP2(vf, vmulq_f32, a, b); }
INLINE vf vf_div(vf a, vf b) { return MAP2(vf, vdivq_f32, a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return MAP3(vf, vfmaq_f32, c, a, b); }
INLINE vf vf_fms(vf a, vf b, vf c) {
    const vf minus = MAP1(vf, vnegq_f32, c);
    return MAP3(vf, vfmaq_f32, minus, a, b);
}
INLINE float32x4_t max_of(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
INLINE float32x4_t min_of(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
INLINE vf vf_max(vf a, vf b) { return MAP2(vf, max_of, a, b); }
INLINE vf vf_min(vf a, vf b) { return MAP2(vf, min_of, a, b); }
INLINE vf vf_round(vf x) { return MAP1(vf, vrndnq_f32, x); }
INLINE vi vf_to_int(vf x) { return MAP1(vi, vcvtnq_s32_f32, x); }
INLINE vi vf_bits(vf x) { return MAP1(vi, vreinterpretq_s32_f32, x); }

INLINE vi vi_load(const void *source) {
    const int8_t *from = (const int8_t *)source;
    return (vi){vreinterpretq_s32_s8(vld1q_s8(from)), vreinterpretq_s32_s8(vld1q_s8(from + 16)),
                vreinterpretq_s32_s8(vld1q_s8(from + 32)), vreinterpretq_s32_s8(vld1q_s8(from + 48))};
}
INLINE void vi_store(void *target, vi x) {
    int8_t *to = (int8_t *)target;
    vst1q_s8(to, vreinterpretq_s8_s32(x.a));
    vst1q_s8(to + 16, vreinterpretq_s8_s32(x.b));
    vst1q_s8(to + 32, vreinterpretq_s8_s32(x.c));
    vst1q_s8(to + 48, vreinterpretq_s8_s32(x.d));
}
INLINE vi vi_set1(int32_t x) {
    const int32x4_t all = vdupq_n_s32(x);
    return (vi){all, all, all, all};
}
INLINE vi vi_zero(void) { return vi_set1(0); }
INLINE vi vi_add(vi a, vi b) { return MAP2(vi, vaddq_s32, a, b); }
INLINE vi vi_sub(vi a, vi b) { return MAP2(vi, vsubq_s32, a, b); }
INLINE vi vi_and(vi a, vi b) { return MAP2(vi, vandq_s32, a, b); }
INLINE vi vi_or(vi a, vi b) { return MAP2(vi, vorrq_s32, a, b); }
INLINE vi vi_max(vi a, vi b) { return MAP2(vi, vmaxq_s32, a, b); }
INLINE vi vi_shift_left(vi x, const int count) {
    const int32x4_t by = vdupq_n_s32(count);
    return (vi){vshlq_s32(x.a, by), vshlq_s32(x.b, by), vshlq_s32(x.c, by), vshlq_s32(x.d, by)};
}
INLINE int32x4_t shift_right_of(int32x4_t x, int32x4_t minus) {
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(x), minus));
}
INLINE vi vi_shift_right(vi x, const int count) {
    const vi minus = vi_set1(-count);
    return MAP2(vi, shift_right_of, x, minus);
}
INLINE vf vi_to_float(vi x) { return MAP1(vf, vcvtq_f32_s32, x); }
INLINE vf vi_as_float(vi x) { return MAP1(vf, vreinterpretq_f32_s32, x); }
INLINE int32_t vi_reduce_max(vi x) { return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.a, x.b), vmaxq_s32(x.c, x.d))); }
INLINE int32_t vi_reduce_add(vi x) { return vaddvq_s32(vaddq_s32(vaddq_s32(x.a, x.b), vaddq_s32(x.c, x.d))); }
INLINE void vi_store_bytes(void *target, vi x) {
    const int16x8_t low = vcombine_s16(vmovn_s32(x.a), vmovn_s32(x.b));
    const int16x8_t high = vcombine_s16(vmovn_s32(x.c), vmovn_s32(x.d));
    vst1q_s8((int8_t *)target, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
INLINE vi vi_load_int8(const int8_t *source) {
    const int8x16_t bytes = vld1q_s8(source);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    return (vi){vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
                vmovl_s16(vget_high_s16(high))};
}

INLINE float32x4_t scale2_of(float32x4_t x, float32x4_t whole) {
    const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(whole), vdupq_n_s32(127));
    return vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
}
INLINE vf vf_scale2(vf x, vf whole) { return MAP2(vf, scale2_of, x, whole); }

INLINE vm vm_below(int32_t end) {
    const int32_t first[4] = {0, 1, 2, 3};
    const int32x4_t lanes = vld1q_s32(first);
    return (vm){vcltq_s32(lanes, vdupq_n_s32(end)), vcltq_s32(lanes, vdupq_n_s32(end - 4)),
                vcltq_s32(lanes, vdupq_n_s32(end - 8)), vcltq_s32(lanes, vdupq_n_s32(end - 12))};
}
INLINE vm vm_and_not(vm a, vm b) { return MAP2(vm, vbicq_u32, a, b); }
INLINE vf vf_select(vm mask, vf a, vf b) { return MAP3(vf, vbslq_f32, mask, a, b); }

INLINE vf vf_load_bf16(const bf16 *source) {
    const uint16x8_t low = vld1q_u16(source), high = vld1q_u16(source + 8);
    return (vf){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(low), 16)),
                vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(low), 16)),
                vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(high), 16)),
                vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(high), 16))};
}

INLINE uint16x4_t round_to_bf16(float32x4_t x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x), upper = vshrq_n_u32(bits, 16);
    const uint32x4_t magnitude = vandq_u32(bits, vdupq_n_u32(0x7fffffff));
    const uint32x4_t half = vaddq_u32(vdupq_n_u32(0x7fff), vandq_u32(upper, vdupq_n_u32(1)));
    uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, half), 16);
    const uint32x4_t is_nan = vcgtq_u32(magnitude, vdupq_n_u32(0x7f800000));
    const uint32x4_t is_small = vcltq_u32(magnitude, vdupq_n_u32(0x00800000));
    rounded = vbslq_u32(is_nan, vorrq_u32(upper, vdupq_n_u32(0x40)), rounded);
    return vmovn_u32(vbslq_u32(is_small, vandq_u32(upper, vdupq_n_u32(0x8000)), rounded));
}
INLINE void vf_store_bf16(bf16 *target, vf x) {
    vst1q_u16(target, vcombine_u16(round_to_bf16(x.a), round_to_bf16(x.b)));
    vst1q_u16(target + 8, vcombine_u16(round_to_bf16(x.c), round_to_bf16(x.d)));
}

INLINE float vf_reduce_add(vf x) {
    const float32x4_t by_4 = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    const float32x2_t by_2 = vadd_f32(vget_low_f32(by_4), vget_high_f32(by_4));
    return vget_lane_f32(by_2, 0) + vget_lane_f32(by_2, 1);
}

INLINE float32x4_t butterfly_of(float32x4_t x, const int distance) {
    const float by_1[4] = {1, -1, 1, -1}, by_2[4] = {1, 1, -1, -1};
    if (distance == 1) return vfmaq_f32(vrev64q_f32(x), x, vld1q_f32(by_1));
    return vfmaq_f32(vextq_f32(x, x, 2), x, vld1q_f32(by_2));
}
INLINE vf butterfly(vf x, const int distance) {
    if (distance == 8)
        return (vf){vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d), vsubq_f32(x.a, x.c), vsubq_f32(x.b, x.d)};
    if (distance == 4)
        return (vf){vaddq_f32(x.a, x.b), vsubq_f32(x.a, x.b), vaddq_f32(x.c, x.d), vsubq_f32(x.c, x.d)};
    return (vf){butterfly_of(x.a, distance), butterfly_of(x.b, distance), butterfly_of(x.c, distance),
                butterfly_of(x.d, distance)};
}

INLINE int32x4_t dot_fours(int32x4_t sums, int32x4_t w, int8x16_t x) {
    return vdotq_s32(sums, vreinterpretq_s8_s32(w), x);
}
INLINE vi dot_weights(vi sums, vi w, const void *x) {
    const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(four_bytes(x)));
    return (vi){dot_fours(sums.a, w.a, four), dot_fours(sums.b, w.b, four), dot_fours(sums.c, w.c, four),
                dot_fours(sums.d, w.d, four)};
}
#define dot_weights_once dot_weights
INLINE vi dot_values(vi sums, vi v, const void *w) { return dot_weights(sums, v, w); }

INLINE void prefetch(const void *source) { __builtin_prefetch(source, 0, 2); }
INLINE void prefetch_near(const void *source) { __builtin_prefetch(source, 0, 3); }

INLINE vf vf_max_of_rows(const int rows, const vf *x) {
    float largest[LANES] = {0};
    UNROLL for (int r = 0; r < rows; r++) {
        const float32x4_t by_4 = max_of(max_of(x[r].a, x[r].c), max_of(x[r].b, x[r].d));
        const float32x2_t halves = vbsl_f32(vcgt_f32(vget_low_f32(by_4), vget_high_f32(by_4)), vget_low_f32(by_4),
                                            vget_high_f32(by_4));
        const float left = vget_lane_f32(halves, 0), right = vget_lane_f32(halves, 1);
        largest[r] = left > right ? left : right;
    }
    return vf_load(largest);
}
