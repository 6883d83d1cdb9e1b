/*
 * Linear layers with weights of 8 bits: one scale for each 64 inputs of each output, and of each token.
 *
 * A token is scaled by itself, so that no verdict depends on what else is in the batch or how a text was cut; and in
 * groups, so that one huge activation (SmolLM2 has them at position 0) spoils 63 others and not the whole token.
 */
#if defined(__x86_64__)

#include "lanes.h"

#include <math.h>
#include <string.h>

#define GROUP 64 /* inputs with one scale */
#define PANEL 64 /* outputs computed together: four registers */
#define ROWS 4   /* tokens computed together */
#define STEPS (GROUP / 4)

typedef struct {
    const uint8_t *weights; /* [outputs / 64, inputs / 4, 64, 4], 128 added */
    const float *scales;    /* [outputs / 64, inputs / 64, 64] */
    long num_inputs, num_outputs;
} Int8Linear;

/* Activations as 8-bit integers in [rows, inputs]; scale and correction for the 128 in [rows, inputs / 64]. */
typedef struct {
    int8_t *values;
    float *scales;
    int32_t *corrections;
} Quantized;

INLINE void quantize_group(const bf16 *x, int8_t *values, float *scale, int32_t *correction) {
    __m512 lanes[GROUP / LANES], largest = _mm512_setzero_ps(), damage = _mm512_setzero_ps();
    for (int i = 0; i < GROUP / LANES; i++) {
        lanes[i] = load_bf16(x + i * LANES);
        largest = _mm512_max_ps(largest, _mm512_abs_ps(lanes[i]));
        damage = _mm512_fmadd_ps(lanes[i], _mm512_setzero_ps(), damage); /* NaN if any value is no number */
    }
    const float top = _mm512_reduce_max_ps(largest) + _mm512_reduce_add_ps(damage);
    const __m512 factor = _mm512_set1_ps(top > 0.0f ? 127.0f / top : 0.0f);
    __m512i sum = _mm512_setzero_si512();
    for (int i = 0; i < GROUP / LANES; i++) {
        __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(lanes[i], factor));
        sum = _mm512_add_epi32(sum, whole);
        _mm_storeu_si128((__m128i *)(values + i * LANES), _mm512_cvtsepi32_epi8(whole));
    }
    *scale = top / 127.0f;
    *correction = -128 * _mm512_reduce_add_epi32(sum);
}

/* Products of a few tokens with one group of a panel's weights, added to float32 sums [rows, 64]. */
INLINE void add_group(const int rows, const uint8_t *weights, const float *scales, const Quantized *x, long first_row,
                      long group, long num_inputs, float *sums) {
    const long num_groups = num_inputs / GROUP;
    __m512i products[ROWS][PANEL / LANES];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < PANEL / LANES; i++)
            products[r][i] = _mm512_set1_epi32(x->corrections[(first_row + r) * num_groups + group]);
    for (int step = 0; step < STEPS; step++) {
        __m512i w[PANEL / LANES];
        for (int i = 0; i < PANEL / LANES; i++) w[i] = _mm512_loadu_si512(weights + (step * PANEL + i * LANES) * 4);
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, x->values + (first_row + r) * num_inputs + group * GROUP + step * 4, sizeof(four));
            const __m512i a = _mm512_set1_epi32(four);
            for (int i = 0; i < PANEL / LANES; i++) products[r][i] = _mm512_dpbusd_epi32(products[r][i], w[i], a);
        }
    }
    for (int r = 0; r < rows; r++) {
        const __m512 token_scale = _mm512_set1_ps(x->scales[(first_row + r) * num_groups + group]);
        for (int i = 0; i < PANEL / LANES; i++) {
            const __m512 scale = _mm512_mul_ps(token_scale, _mm512_loadu_ps(scales + i * LANES));
            float *sum = sums + (first_row + r) * PANEL + i * LANES;
            _mm512_storeu_ps(sum, _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[r][i]), scale, _mm512_loadu_ps(sum)));
        }
    }
}

static void multiply_panel(const Int8Linear *linear, const Quantized *x, long panel, long rows, float *sums, bf16 *out) {
    const long inputs = linear->num_inputs;
    memset(sums, 0, rows * PANEL * sizeof(float));
    for (long group = 0; group < inputs / GROUP; group++) {
        const uint8_t *weights = linear->weights + (panel * inputs + group * GROUP) * PANEL;
        const float *scales = linear->scales + (panel * (inputs / GROUP) + group) * PANEL;
        long row = 0;
        for (; row + ROWS <= rows; row += ROWS) add_group(ROWS, weights, scales, x, row, group, inputs, sums);
        for (; row + 2 <= rows; row += 2) add_group(2, weights, scales, x, row, group, inputs, sums);
        if (row < rows) add_group(1, weights, scales, x, row, group, inputs, sums);
    }
    for (long row = 0; row < rows; row++)
        for (long i = 0; i < PANEL; i += LANES)
            store_bf16(out + row * linear->num_outputs + panel * PANEL + i, _mm512_loadu_ps(sums + row * PANEL + i));
}

#define BLOCK 64 /* tokens that share one reading of a panel; their sums stay in the first-level cache */

/*
 * out [rows, outputs] = x [rows, inputs] W^T. Scratch for the quantised tokens: rows * inputs bytes, and two arrays of
 * rows * inputs / 64 four-byte values behind it.
 */
void streamward_linear_int8(const Int8Linear *linear, const bf16 *x, bf16 *out, long rows, int8_t *scratch) {
    const long inputs = linear->num_inputs, num_groups = inputs / GROUP, num_panels = linear->num_outputs / PANEL;
    const long num_blocks = (rows + BLOCK - 1) / BLOCK;
    Quantized quantized = {scratch, (float *)(scratch + rows * inputs), NULL};
    quantized.corrections = (int32_t *)(quantized.scales + rows * num_groups);
#pragma omp parallel
    {
        float sums[BLOCK * PANEL];
#pragma omp for schedule(static)
        for (long i = 0; i < rows * num_groups; i++)
            quantize_group(x + i * GROUP, quantized.values + i * GROUP, quantized.scales + i, quantized.corrections + i);
#pragma omp for schedule(dynamic, 1)
        for (long i = 0; i < num_panels * num_blocks; i++) {
            const long panel = i / num_blocks, first = i % num_blocks * BLOCK;
            const Quantized part = {quantized.values + first * inputs, quantized.scales + first * num_groups,
                                    quantized.corrections + first * num_groups};
            const long count = rows - first < BLOCK ? rows - first : BLOCK;
            multiply_panel(linear, &part, panel, count, sums, out + first * linear->num_outputs);
        }
    }
}

#endif
