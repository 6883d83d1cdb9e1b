/* Products of a few tokens with panels of weights; see linear.h. */
#if defined(__x86_64__)

#include "linear.h"

#include <string.h>

#define ROWS 8   /* tokens whose sums are in registers */
#define BLOCK 64 /* tokens that share one reading of a panel; their sums stay in the first-level cache */
#define AHEAD 4096 /* bytes of weights that are asked for in advance */

/* One group of a panel: its weights and their ranges, and the activations that meet them. */
typedef struct {
    const uint8_t *weights;
    const bf16 *ranges;
    const uint8_t *values; /* of the first row */
    const float *scales;
    const float *totals;
} Block;

INLINE __m512i four_bytes_everywhere(const uint8_t *source) {
    int32_t four;
    memcpy(&four, source, sizeof(four));
    return _mm512_set1_epi32(four);
}

/* The weights for the next four bytes of every activation; the first rows also ask for what comes later. */
INLINE void load_weights(const uint8_t *source, const int is_first, __m512i *w) {
    for (int i = 0; i < PANEL_LANES; i++) {
        w[i] = _mm512_loadu_si512(source + i * 64);
        if (is_first) _mm_prefetch((const char *)source + i * 64 + AHEAD, _MM_HINT_T0);
    }
}

/* sums [rows, 32] += activations * weights, bfloat16, in the order of the inputs whatever the number of rows. */
INLINE void add_bf16(const int rows, const int is_first, const Block *b, float *sums) {
    __m512 acc[ROWS][PANEL_LANES];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < PANEL_LANES; i++) acc[r][i] = _mm512_loadu_ps(sums + r * PANEL + i * LANES);
    for (int pair = 0; pair < GROUP / 2; pair++) {
        __m512i w[PANEL_LANES];
        load_weights(b->weights + pair * PANEL * 4, is_first, w);
        for (int r = 0; r < rows; r++) {
            const __m512i x = four_bytes_everywhere(b->values + r * GROUP * 2 + pair * 4);
            for (int i = 0; i < PANEL_LANES; i++) acc[r][i] = add_products_bf16(acc[r][i], w[i], x);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < PANEL_LANES; i++) _mm512_storeu_ps(sums + r * PANEL + i * LANES, acc[r][i]);
}

/* The same for whole numbers, whose sum is exact before it is scaled. */
INLINE void add_int8(const int rows, const int is_first, const Block *b, float *sums) {
    __m512i acc[ROWS][PANEL_LANES];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < PANEL_LANES; i++) acc[r][i] = _mm512_setzero_si512();
    for (int four = 0; four < GROUP / 4; four++) {
        __m512i w[PANEL_LANES];
        load_weights(b->weights + four * PANEL * 4, is_first, w);
        for (int r = 0; r < rows; r++) {
            const __m512i x = four_bytes_everywhere(b->values + r * GROUP + four * 4);
            for (int i = 0; i < PANEL_LANES; i++) acc[r][i] = add_products_int8(acc[r][i], w[i], x);
        }
    }
    for (int i = 0; i < PANEL_LANES; i++) {
        const __m512i ranges = _mm512_loadu_si512(b->ranges + i * LANES * 2);
        const __m512 steps = _mm512_castsi512_ps(_mm512_slli_epi32(ranges, 16));
        const __m512 lowest = _mm512_castsi512_ps(_mm512_and_si512(ranges, _mm512_set1_epi32((int)0xffff0000u)));
        for (int r = 0; r < rows; r++) {
            float *to = sums + r * PANEL + i * LANES;
            const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[r][i]), _mm512_set1_ps(b->scales[r]));
            const __m512 sum = _mm512_fmadd_ps(lowest, _mm512_set1_ps(b->totals[r]), _mm512_loadu_ps(to));
            _mm512_storeu_ps(to, _mm512_fmadd_ps(product, steps, sum));
        }
    }
}

INLINE void add_rows(const int rows, const int is_first, const int is_int8, Block b, long row, float *sums) {
    b.values += row * GROUP * (is_int8 ? 1 : 2);
    if (is_int8) {
        b.scales += row;
        b.totals += row;
        add_int8(rows, is_first, &b, sums + row * PANEL);
    } else {
        add_bf16(rows, is_first, &b, sums + row * PANEL);
    }
}

/* One group for all rows of a block: eight at a time, then four, two and one. */
INLINE void add_group(const int is_int8, const Block *b, long rows, float *sums) {
    long row = ROWS;
    if (rows >= ROWS) add_rows(ROWS, 1, is_int8, *b, 0, sums);
    else if (rows >= 4) add_rows(row = 4, 1, is_int8, *b, 0, sums);
    else if (rows >= 2) add_rows(row = 2, 1, is_int8, *b, 0, sums);
    else add_rows(row = 1, 1, is_int8, *b, 0, sums);
    for (; row + ROWS <= rows; row += ROWS) add_rows(ROWS, 0, is_int8, *b, row, sums);
    if (row + 4 <= rows) {
        add_rows(4, 0, is_int8, *b, row, sums);
        row += 4;
    }
    if (row + 2 <= rows) {
        add_rows(2, 0, is_int8, *b, row, sums);
        row += 2;
    }
    if (row < rows) add_rows(1, 0, is_int8, *b, row, sums);
}

/* sums [rows, 32] = the product of a block of tokens, from `first` of `num_rows` on, with one panel. */
INLINE void multiply_panel(const int is_int8, const Linear *linear, const Operand *x, long panel, long first, long rows,
                           long num_rows, float *sums) {
    const long groups = linear->num_inputs / GROUP, width = is_int8 ? 1 : 2; /* bytes of a weight, of a value */
    memset(sums, 0, rows * PANEL * sizeof(float));
    for (long group = 0; group < groups; group++) {
        const long weights_at = panel * groups + group, values_at = group * num_rows + first;
        const Block block = {
            .weights = (const uint8_t *)linear->weights + weights_at * GROUP * PANEL * width,
            .ranges = is_int8 ? linear->ranges + weights_at * PANEL * 2 : NULL,
            .values = (const uint8_t *)x->values + values_at * GROUP * width,
            .scales = is_int8 ? x->scales + values_at : NULL,
            .totals = is_int8 ? x->totals + values_at : NULL,
        };
        add_group(is_int8, &block, rows, sums);
    }
}

INLINE __m512 silu(__m512 x) {
    const __m512 power = _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exp2_lanes(_mm512_min_ps(_mm512_set1_ps(126.0f), power))));
}

/* Bring a panel's sums to out, [rows, outputs]; half as many outputs where they are gates. */
static void finish_panel(const float *sums, float *out, long panel, long num_outputs, long rows, int target) {
    for (long row = 0; row < rows; row++, sums += PANEL) {
        const __m512 left = _mm512_loadu_ps(sums), right = _mm512_loadu_ps(sums + LANES);
        float *to = out + row * num_outputs + panel * PANEL;
        if (target == GATE) {
            _mm512_storeu_ps(out + row * (num_outputs / 2) + panel * LANES, _mm512_mul_ps(silu(left), right));
        } else if (target == ADD) {
            _mm512_storeu_ps(to, _mm512_add_ps(left, _mm512_loadu_ps(to)));
            _mm512_storeu_ps(to + LANES, _mm512_add_ps(right, _mm512_loadu_ps(to + LANES)));
        } else {
            _mm512_storeu_ps(to, left);
            _mm512_storeu_ps(to + LANES, right);
        }
    }
}

/* Apply a layer to packed activations; see the targets. Inside a parallel region its threads share the work. */
void streamward_multiply(const Linear *linear, const Operand *operand, float *out, long rows, int target) {
    const long num_panels = linear->num_outputs / PANEL, num_blocks = (rows + BLOCK - 1) / BLOCK;
    const long width = target == GATE ? linear->num_outputs / 2 : linear->num_outputs;
    float sums[BLOCK * PANEL];
#pragma omp for schedule(static) /* successive panels for each thread: what it asks for in advance is its own */
    for (long i = 0; i < num_panels * num_blocks; i++) {
        const long panel = i / num_blocks, first = i % num_blocks * BLOCK;
        const long count = rows - first < BLOCK ? rows - first : BLOCK;
        if (linear->ranges) multiply_panel(1, linear, operand, panel, first, count, rows, sums);
        else multiply_panel(0, linear, operand, panel, first, count, rows, sums);
        finish_panel(sums, out + first * width, panel, linear->num_outputs, count, target);
    }
}

/* Pack activations [rows, inputs] for a layer. */
void streamward_pack(const Linear *linear, const float *x, const Operand *operand, long rows) {
    const long groups = linear->num_inputs / GROUP;
#pragma omp for schedule(static)
    for (long i = 0; i < rows * groups; i++) {
        __m512 lanes[GROUP_LANES];
        for (int j = 0; j < GROUP_LANES; j++) lanes[j] = _mm512_loadu_ps(x + i * GROUP + j * LANES);
        put_group(linear, operand, rows, i / groups, i % groups, lanes);
    }
}

#endif
