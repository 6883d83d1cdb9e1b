/* Products of a few tokens with panels of weights; see linear.h. */
#if defined(__x86_64__)

#include "linear.h"

#include <omp.h>

#define ROWS_BF16 12 /* tokens whose sums are in registers */
#define ROWS_INT8 6  /* they need whole numbers beside them */
#define BLOCK_BYTES (384 * 1024) /* of activations that stay in the second-level cache */
#define MANY_ROWS 24 /* from so many on arithmetic sets the pace */
#define BUSY_ROWS 6  /* from so many on a processor does not see by itself what memory it needs next */
#define AHEAD 4096 /* bytes of weights that are asked for in advance where a panel is read once */

/* Some tokens that one panel is multiplied with. */
typedef struct {
    const Linear *linear;
    const Operand *x;
    long panel, num_rows;  /* rows: of the whole operand */
    long num_ahead;        /* how many panels on is the one that this thread will probably take next */
    long begin, end;       /* of those that are multiplied with it */
    long first;            /* of the few that are taken now */
} Task;

/* Weights to ask memory for while others are multiplied, some for each group. */
typedef struct {
    const uint8_t *next;
    long bytes;
} Request;

/*
 * Where all rows are taken at once, what comes soon, or nothing where the processor itself looks far enough ahead; else a
 * share of the next panel.
 */
INLINE Request plan_request(const int rows, const Task *t, const uint8_t *weights, long group_bytes) {
    if (rows == t->end - t->begin) return (Request){weights + AHEAD, rows < BUSY_ROWS ? 0 : group_bytes};
    const long groups = t->linear->num_inputs / GROUP, num_rows = t->end - t->begin;
    const long share = (group_bytes * rows / num_rows + 127) / 128 * 128;
    const long done = group_bytes * (t->first - t->begin) / num_rows / 128 * 128;
    return (Request){weights + groups * (group_bytes * t->num_ahead + done), share};
}

/* Load the weights for the next four bytes of every activation. */
INLINE void load_weights(const uint8_t *source, const Request *request, long at, __m512i *w) {
    UNROLL for (int i = 0; i < PANEL_LANES; i++) w[i] = _mm512_loadu_si512(source + at + i * 64);
    if (at >= request->bytes) return;
    UNROLL for (int i = 0; i < PANEL_LANES; i++) _mm_prefetch((const char *)request->next + at + i * 64, _MM_HINT_T1);
}

/* sums [rows, 32] = activations * weights, bfloat16, in the order of the inputs whatever the number of rows. */
INLINE void multiply_bf16(const int rows, const Task *t, __m512 (*sums)[PANEL_LANES]) {
    const long groups = t->linear->num_inputs / GROUP, group_bytes = GROUP * PANEL * 2;
    const uint8_t *weights = (const uint8_t *)t->linear->weights + t->panel * groups * group_bytes;
    const uint8_t *values = (const uint8_t *)t->x->values + t->first * GROUP * 2;
    Request request = plan_request(rows, t, weights, group_bytes);
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < PANEL_LANES; i++) sums[r][i] = _mm512_setzero_ps();
    for (long group = 0; group < groups; group++) {
        for (int pair = 0; pair < GROUP / 2; pair++) {
            __m512i w[PANEL_LANES];
            load_weights(weights, &request, pair * PANEL * 4, w);
            UNROLL for (int r = 0; r < rows; r++) {
                const __m512i x = four_bytes_everywhere(values + r * GROUP * 2 + pair * 4);
                UNROLL for (int i = 0; i < PANEL_LANES; i++) sums[r][i] = add_products_bf16(sums[r][i], w[i], x);
            }
        }
        weights += group_bytes;
        request.next += request.bytes;
        values += t->num_rows * GROUP * 2;
    }
}

/* The same for whole numbers, whose sum over a group is exact before it is scaled. */
INLINE void multiply_int8(const int rows, const Task *t, __m512 (*sums)[PANEL_LANES]) {
    const long groups = t->linear->num_inputs / GROUP, group_bytes = GROUP * PANEL;
    const uint8_t *weights = (const uint8_t *)t->linear->weights + t->panel * groups * group_bytes;
    const bf16 *steps = t->linear->steps + t->panel * groups * PANEL;
    const uint8_t *values = (const uint8_t *)t->x->values + t->first * GROUP;
    const float *scales = t->x->scales + t->first;
    const int32_t *offsets = t->x->offsets + t->first;
    Request request = plan_request(rows, t, weights, group_bytes);
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < PANEL_LANES; i++) sums[r][i] = _mm512_setzero_ps();
    for (long group = 0; group < groups; group++) {
        __m512i acc[ROWS_INT8][PANEL_LANES];
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < PANEL_LANES; i++) acc[r][i] = _mm512_set1_epi32(offsets[r]);
        for (int four = 0; four < GROUP / 4; four++) {
            __m512i w[PANEL_LANES];
            load_weights(weights, &request, four * PANEL * 4, w);
            UNROLL for (int r = 0; r < rows; r++) {
                const __m512i x = four_bytes_everywhere(values + r * GROUP + four * 4);
                UNROLL for (int i = 0; i < PANEL_LANES; i++) acc[r][i] = add_products_int8(acc[r][i], w[i], x);
            }
        }
        const __m512i both = _mm512_loadu_si512(steps);
        const __m512 step[PANEL_LANES] = {
            _mm512_castsi512_ps(_mm512_slli_epi32(both, 16)),
            _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000u))),
        };
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < PANEL_LANES; i++) {
                const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[r][i]), step[i]);
                sums[r][i] = _mm512_fmadd_ps(product, _mm512_set1_ps(scales[r]), sums[r][i]);
            }
        weights += group_bytes;
        request.next += request.bytes;
        steps += PANEL;
        values += t->num_rows * GROUP;
        scales += t->num_rows;
        offsets += t->num_rows;
    }
}

INLINE __m512 silu(__m512 x) {
    const __m512 power = _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exp2_lanes(_mm512_min_ps(_mm512_set1_ps(126.0f), power))));
}

/* Bring a token's sums to its row of out; half as many where they are gates. */
INLINE void finish_row(const __m512 *sums, float *row, long panel, int target) {
    float *to = row + panel * PANEL;
    if (target == GATE) {
        _mm512_storeu_ps(row + panel * LANES, _mm512_mul_ps(silu(sums[0]), sums[1]));
        return;
    }
    UNROLL for (int i = 0; i < PANEL_LANES; i++)
        _mm512_storeu_ps(to + i * LANES, target == ADD ? _mm512_add_ps(sums[i], _mm512_loadu_ps(to + i * LANES)) : sums[i]);
}

INLINE void take_rows(const int rows, const int is_int8, const Task *t, float *out, int target) {
    const long width = target == GATE ? t->linear->num_outputs / 2 : t->linear->num_outputs;
    float *row = out + t->first * width;
    __m512 sums[ROWS_BF16][PANEL_LANES];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < PANEL_LANES; i++)
            _mm_prefetch((const char *)(row + r * width + (t->panel * PANEL + i * LANES) * width / t->linear->num_outputs), _MM_HINT_T1);
    if (is_int8) multiply_int8(rows, t, sums);
    else multiply_bf16(rows, t, sums);
    UNROLL for (int r = 0; r < rows; r++) finish_row(sums[r], row + r * width, t->panel, target);
}

/* How many rows are taken together when so many are left. */
INLINE int next_rows(const int is_int8, long left) {
    if (left >= (is_int8 ? ROWS_INT8 : ROWS_BF16)) return is_int8 ? ROWS_INT8 : ROWS_BF16;
    return left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

INLINE void multiply_panel(const int is_int8, Task *t, float *out, int target) {
    while (t->first < t->end) {
        const int rows = next_rows(is_int8, t->end - t->first);
        switch (rows) {
        case 1: take_rows(1, is_int8, t, out, target); break;
        case 2: take_rows(2, is_int8, t, out, target); break;
        case 4: take_rows(4, is_int8, t, out, target); break;
        case 8: take_rows(8, 0, t, out, target); break;
        default: take_rows(is_int8 ? ROWS_INT8 : ROWS_BF16, is_int8, t, out, target);
        }
        t->first += rows;
    }
}

/* Multiply some rows with one panel. */
INLINE void take_panel(Task task, float *out, int target) {
    task.first = task.begin;
    if (task.linear->steps) multiply_panel(1, &task, out, target);
    else multiply_panel(0, &task, out, target);
}

/*
 * Apply a layer to packed activations; see the targets. Inside a parallel region its threads share the work: where memory
 * sets the pace, successive panels for each; else panel by panel, so that none waits for one that lost its core for a
 * while, and so many rows that they stay in the second-level cache.
 */
void streamward_multiply(const Linear *linear, const Operand *operand, float *out, long rows, int target) {
    const long num_panels = linear->num_outputs / PANEL;
    const Task all = {.linear = linear, .x = operand, .num_rows = rows, .num_ahead = 1, .end = rows};
    if (rows < MANY_ROWS) {
#pragma omp for schedule(static)
        for (long panel = 0; panel < num_panels; panel++) {
            Task task = all;
            task.panel = panel;
            take_panel(task, out, target);
        }
        return;
    }
    const long bytes = rows * linear->num_inputs * (linear->steps ? 1 : 2), parts = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
    const long most = (rows / parts + ROWS_BF16) / ROWS_BF16 * ROWS_BF16, num_blocks = (rows + most - 1) / most;
#pragma omp for schedule(dynamic, 1)
    for (long i = 0; i < num_blocks * num_panels; i++) {
        Task task = all;
        task.panel = i % num_panels;
        task.num_ahead = omp_get_num_threads();
        task.begin = i / num_panels * most;
        task.end = task.begin + most < rows ? task.begin + most : rows;
        take_panel(task, out, target);
    }
}

/* Pack activations [rows, inputs] for a layer. */
void streamward_pack(const Linear *linear, const float *x, const Operand *operand, long rows) {
    const long groups = linear->num_inputs / GROUP;
#pragma omp for schedule(static)
    for (long i = 0; i < rows * groups; i++) { /* group by group: the scales of successive tokens share a line */
        const long group = i / rows, row = i % rows;
        __m512 lanes[GROUP_LANES];
        for (int j = 0; j < GROUP_LANES; j++) lanes[j] = _mm512_loadu_ps(x + (row * groups + group) * GROUP + j * LANES);
        put_group(linear, operand, rows, row, group, lanes);
    }
}

#endif
