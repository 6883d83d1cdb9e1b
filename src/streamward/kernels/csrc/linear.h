/*
 * Linear layers without bias, and the form in which activations reach them.
 *
 * Weights are bfloat16, or have 8 bits with a scale for each 64 inputs of each output. Activations of the latter are
 * integers too, with one scale for each 64 inputs of each token. A token is scaled by itself, so that no verdict depends
 * on what else is in the batch or how a text was cut; and in groups, so that one huge activation (SmolLM2 has them at
 * position 0) spoils 63 others and not the whole token.
 *
 * Before they are rounded, both are multiplied by the Hadamard matrix H of 64 rows, and the weights divided by 64:
 * (Hw / 64)(Hx) = wx. It spreads what is large over the whole group, so that a group has no outlier that sets the scale
 * for the rest (Ashkboos et al., QuaRot, arXiv 2404.00456).
 *
 * Packed weights are panels of 32 outputs. With P = 16 * PANEL_LANES:
 *
 *     INT8   [outputs / P, inputs / 4, P, 4], WEIGHT_ZERO added to each
 *            scales [outputs / 32, inputs / 64, 16, 2] (outputs i and 16 + i) where P is 32, else [outputs / 16, inputs / 64, 16]
 *            of products of matrices: [outputs / 16, inputs / 8, 8, 2, 8], pairs of outputs
 *     BF16   [outputs / P, inputs / 2, P, 2]
 *
 * Where outputs are gates and as many values that they gate, a panel has 16 gates and the 16 values behind them.
 */
#ifndef STREAMWARD_LINEAR_H
#define STREAMWARD_LINEAR_H

#include "pool.h"
#include "simd.h"

#define PANEL 32 /* outputs of a panel */
#define GROUP_LANES (GROUP / LANES)
#define PART_OUTPUTS (LANES * PANEL_LANES) /* outputs whose weights lie together */
#define NUM_PARTS (PANEL / PART_OUTPUTS)
#define SMALLEST_RANGE 0x1p-100f /* activations of a group that are all smaller become 0 */

/* What becomes of a product [rows, outputs]. */
enum { STORE, ADD, GATE_SILU, GATE_GELU_TANH }; /* out = y; out += y; out = silu(gate) * up; out = gelu(gate) * up */

static void multiply(const Linear *linear, const Operand *operand, float *out, int64_t rows, int target);
static void pack(const Linear *linear, const float *x, const Operand *operand, int64_t rows);

/* The form of activations that a layer reads. */
INLINE int operand_kind(const Linear *linear) {
#ifndef HAS_BF16_DOT
    if (linear->kind == BF16_FAST) return BF16;
#endif
    return (int)linear->kind;
}

/* x = Hx: sums and differences of all pairs at distance 1, 2, 4 and 8 (lanes), then 16 and 32 (registers). */
INLINE void hadamard_group(vf *x) {
    UNROLL for (int i = 0; i < GROUP_LANES; i++) {
        x[i] = butterfly(x[i], 1);
        x[i] = butterfly(x[i], 2);
        x[i] = butterfly(x[i], 4);
        x[i] = butterfly(x[i], 8);
    }
    UNROLL for (int distance = 1; distance < GROUP_LANES; distance *= 2)
        UNROLL for (int i = 0; i < GROUP_LANES; i++) {
            if (i & distance) continue;
            const vf left = x[i], right = x[i + distance];
            x[i] = vf_add(left, right);
            x[i + distance] = vf_sub(left, right);
        }
}

/* Multiply each group of 64 by the Hadamard matrix, and by a factor. */
INLINE void hadamard_groups(float *x, int64_t size, float factor) {
    for (int64_t at = 0; at < size; at += GROUP) {
        vf lanes[GROUP_LANES];
        UNROLL for (int i = 0; i < GROUP_LANES; i++) lanes[i] = vf_load(x + at + i * LANES);
        hadamard_group(lanes);
        UNROLL for (int i = 0; i < GROUP_LANES; i++) vf_store(x + at + i * LANES, vf_mul(lanes[i], vf_set1(factor)));
    }
}

/* Integers within +-127, also of what is not finite. */
INLINE vi round_within_127(vf x) { return vf_to_int(vf_min(vf_max(x, vf_set1(-127.0f)), vf_set1(127.0f))); }

/* The largest magnitude as bits, whose order as integers is that of the values; NaN comes out largest. */
INLINE vi magnitude_bits(vf x) { return vi_and(vf_bits(x), vi_set1(0x7fffffff)); }

/* Turn `count` times 16 values into integers within +-127; return what 1 stands for, and put their sum. */
INLINE float quantize(const int count, const vf *x, int8_t *values, int32_t *sum) {
    vi largest = vi_zero(), total = largest;
    UNROLL for (int i = 0; i < count; i++) largest = vi_max(largest, magnitude_bits(x[i]));
    const float range = float_of_bits((uint32_t)vi_reduce_max(largest)); /* NaN if any is */
    const vf factor = vf_set1(range > SMALLEST_RANGE ? 127.0f / range : 0.0f);
    UNROLL for (int i = 0; i < count; i++) {
        const vi integers = round_within_127(vf_mul(x[i], factor));
        if (WEIGHT_ZERO) total = vi_add(total, integers);
        vi_store_bytes(values + i * LANES, integers);
    }
    *sum = WEIGHT_ZERO ? vi_reduce_add(total) : 0;
    return range / 127.0f;
}

/* Put 64 successive activations of one token, transformed already, where a layer of 8 bits will read them. */
INLINE void pack_transformed_group(const Operand *operand, int64_t rows, int64_t row, int64_t group, const vf *x) {
    const int64_t at = group * rows + row;
    int32_t sum;
    operand->scales[at] = quantize(GROUP_LANES, x, (int8_t *)operand->values + at * GROUP, &sum);
    operand->offsets[at] = -WEIGHT_ZERO * sum;
}

/* Put 64 successive activations of one token where a layer will read them; what x holds is spoilt. */
INLINE void pack_group(const int kind, const Operand *operand, int64_t rows, int64_t row, int64_t group, vf *x) {
    const int64_t at = (group * rows + row) * GROUP;
    if (kind == INT8) {
        hadamard_group(x);
        pack_transformed_group(operand, rows, row, group, x);
    } else if (kind == BF16) {
        UNROLL for (int i = 0; i < GROUP_LANES; i++) vf_store((float *)operand->values + at + i * LANES, x[i]);
    } else {
        UNROLL for (int i = 0; i < GROUP_LANES; i++) vf_store_bf16((bf16 *)operand->values + at + i * LANES, x[i]);
    }
}

#endif
