/*
 * Linear layers without bias, and the form in which activations reach them.
 *
 * Weights are bfloat16, or have 8 bits with a step for each 64 inputs of each output. Activations follow: bfloat16,
 * or whole numbers with one scale for each 64 inputs of each token. A token is scaled by itself, so that no verdict
 * depends on what else is in the batch or how a text was cut; and in groups, so that one huge activation (SmolLM2 has
 * them at position 0) spoils 63 others and not the whole token.
 *
 * Before they are rounded, both are multiplied by the Hadamard matrix H of 64 rows, and the weights divided by 64:
 * (Hw / 64)(Hx) = wx. It spreads what is large over the whole group, so that a group has no outlier that sets the scale
 * for the rest (Ashkboos et al., QuaRot, arXiv 2404.00456).
 */
#ifndef STREAMWARD_LINEAR_H
#define STREAMWARD_LINEAR_H

#include "lanes.h"

#define ZERO 128 /* the byte that stands for 0, of weights and of keys */
#define GROUP 64 /* inputs with one scale, taken together */
#define PANEL 32 /* outputs computed together: two registers */
#define GROUP_LANES (GROUP / LANES)
#define PANEL_LANES (PANEL / LANES)

typedef struct {
    const void *weights; /* bf16 [outputs / 32, inputs / 2, 32, 2], or uint8 [outputs / 32, inputs / 4, 32, 4] */
    const bf16 *steps;   /* [outputs / 32, inputs / 64, 16, 2] of 8-bit weights, outputs i and 16 + i; NULL if they are bfloat16 */
    long num_inputs, num_outputs;
} Linear;

/* Activations of some tokens, by groups: what is multiplied together lies side by side. */
typedef struct {
    void *values;     /* bf16 or int8 [inputs / 64, rows, 64] */
    float *scales;    /* [inputs / 64, rows] */
    int32_t *offsets; /* the same: what the 128 that was added to every 8-bit weight adds to a sum, negative */
} Operand;

/* What becomes of a product [rows, outputs]. */
enum { STORE, ADD, GATE }; /* out = y; out += y; out = silu(gate) * up, where a panel holds 16 gates and their 16 ups */

void streamward_pack(const Linear *linear, const float *x, const Operand *operand, long rows);
void streamward_multiply(const Linear *linear, const Operand *operand, float *out, long rows, int target);

/* x = Hx: sums and differences of all pairs at distance 1, 2, 4 and 8 (lanes), then 16 and 32 (registers). */
INLINE void rotate_group(__m512 *x) {
    const __m512 ones = _mm512_set1_ps(1.0f), minus = _mm512_set1_ps(-1.0f);
    const __m512 by_1 = _mm512_mask_mov_ps(ones, 0xaaaa, minus), by_2 = _mm512_mask_mov_ps(ones, 0xcccc, minus);
    const __m512 by_4 = _mm512_mask_mov_ps(ones, 0xf0f0, minus), by_8 = _mm512_mask_mov_ps(ones, 0xff00, minus);
    for (int i = 0; i < GROUP_LANES; i++) {
        x[i] = _mm512_fmadd_ps(x[i], by_1, _mm512_permute_ps(x[i], 0xb1));
        x[i] = _mm512_fmadd_ps(x[i], by_2, _mm512_permute_ps(x[i], 0x4e));
        x[i] = _mm512_fmadd_ps(x[i], by_4, _mm512_shuffle_f32x4(x[i], x[i], 0xb1));
        x[i] = _mm512_fmadd_ps(x[i], by_8, _mm512_shuffle_f32x4(x[i], x[i], 0x4e));
    }
    for (int distance = 1; distance < GROUP_LANES; distance *= 2)
        for (int i = 0; i < GROUP_LANES; i++) {
            if (i & distance) continue;
            const __m512 left = x[i], right = x[i + distance];
            x[i] = _mm512_add_ps(left, right);
            x[i + distance] = _mm512_sub_ps(left, right);
        }
}

/* Turn `count` times 16 values into whole numbers from -127 to 127; return what 1 stands for, and put their sum. */
INLINE float quantize(const int count, const __m512 *x, int8_t *values, int32_t *sum) {
    __m512i largest = _mm512_setzero_si512(), total = largest;
    for (int i = 0; i < count; i++) largest = _mm512_max_epu32(largest, magnitude_bits(x[i]));
    const float top = float_of_bits(_mm512_reduce_max_epu32(largest)); /* no number if any is none */
    const __m512 factor = _mm512_set1_ps(top > 0.0f ? 127.0f / top : 0.0f);
    for (int i = 0; i < count; i++) {
        const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(x[i], factor));
        total = _mm512_add_epi32(total, whole);
        _mm_storeu_si128((__m128i *)(values + i * LANES), _mm512_cvtsepi32_epi8(whole));
    }
    *sum = _mm512_reduce_add_epi32(total);
    return top / 127.0f;
}

/* Put 64 successive activations of one token, rotated already, where a layer of 8 bits will read them. */
INLINE void put_rotated_group(const Operand *operand, long rows, long row, long group, const __m512 *x) {
    const long at = group * rows + row;
    int32_t sum;
    operand->scales[at] = quantize(GROUP_LANES, x, (int8_t *)operand->values + at * GROUP, &sum);
    operand->offsets[at] = -ZERO * sum;
}

/* Put 64 successive activations of one token where a layer will read them; what x holds is spoilt. */
INLINE void put_group(const Linear *linear, const Operand *operand, long rows, long row, long group, __m512 *x) {
    if (linear->steps) {
        rotate_group(x);
        put_rotated_group(operand, rows, row, group, x);
        return;
    }
    bf16 *values = (bf16 *)operand->values + (group * rows + row) * GROUP;
    for (int i = 0; i < GROUP_LANES; i++) store_bf16(values + i * LANES, x[i]);
}

#endif
