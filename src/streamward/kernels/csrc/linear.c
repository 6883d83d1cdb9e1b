/* Products of a few tokens with panels of weights; see linear.h. */
#include "linear.h"

#define MAX_TOGETHER 12 /* tokens whose sums are in registers */
#define BLOCK_BYTES (384 * 1024) /* of activations that stay in the second-level cache */
#define MANY_ROWS 24 /* from so many on arithmetic sets the pace */

/* Some tokens that one panel is multiplied with. */
typedef struct {
    const Linear *linear;
    const Operand *x;
    int64_t panel, num_rows; /* rows: of the whole operand */
    int64_t num_ahead;       /* how many panels on is the one that this thread will probably take next */
    int64_t begin, end;      /* of those that are multiplied with it */
    int64_t first;           /* of the few that are taken now */
} PanelTask;

/* Weights to ask memory for while others are multiplied, some for each group. */
typedef struct {
    const uint8_t *next;
    int64_t bytes;
} Request;

/*
 * Where all rows are taken at once, what comes soon; else a share of the next panel. Also for a single row: processors ask
 * by themselves for too little, or not beyond a page of 4 kB; figures: docs/explanation/kernels.md.
 */
INLINE Request plan_request(const int rows, const PanelTask *t, const uint8_t *weights, int64_t group_bytes) {
    if (rows == t->end - t->begin) return (Request){weights + AHEAD(rows), group_bytes};
    const int64_t groups = t->linear->num_inputs / GROUP, num_rows = t->end - t->begin;
    const int64_t share = (group_bytes * rows / num_rows + 127) / 128 * 128;
    const int64_t done = group_bytes * (t->first - t->begin) / num_rows / 128 * 128;
    return (Request){weights + groups * (group_bytes * t->num_ahead * NUM_PARTS + done), share};
}

/* The weights at a place of a group, and requests for as much of what is wanted, evenly over the group. */
INLINE void load_weights(const uint8_t *source, const Request *request, int64_t at, const int64_t group_bytes, vi *w) {
    UNROLL for (int i = 0; i < PANEL_LANES; i++) w[i] = vi_load(source + at + i * 64);
    UNROLL for (int i = 0; i < PANEL_LANES; i++) {
        const int64_t wanted = (at + i * group_bytes) / PANEL_LANES;
        if (wanted < request->bytes) prefetch(request->next + wanted);
    }
}

/* sums [rows, lanes] = activations * weights of one part of a panel, in the order of the inputs whatever the rows. */
INLINE void multiply_bf16(const int rows, const PanelTask *t, int part, vf (*sums)[PANEL_LANES]) {
    const int64_t groups = t->linear->num_inputs / GROUP, group_bytes = GROUP * PART_OUTPUTS * 2;
    const uint8_t *weights =
        (const uint8_t *)t->linear->weights + (t->panel * NUM_PARTS + part) * groups * group_bytes;
    const float *values = (const float *)t->x->values + t->first * GROUP;
    Request request = plan_request(rows, t, weights, group_bytes);
    const vi upper = vi_set1((int32_t)0xffff0000u);
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < PANEL_LANES; i++) sums[r][i] = vf_zero();
    for (int64_t group = 0; group < groups; group++) {
        for (int pair = 0; pair < GROUP / 2; pair++) {
            vi w[PANEL_LANES];
            vf even[PANEL_LANES], odd[PANEL_LANES];
            load_weights(weights, &request, pair * PART_OUTPUTS * 4, group_bytes, w);
            UNROLL for (int i = 0; i < PANEL_LANES; i++) {
                even[i] = vi_as_float(vi_shift_left(w[i], 16));
                odd[i] = vi_as_float(vi_and(w[i], upper));
            }
            UNROLL for (int r = 0; r < rows; r++) {
                const vf x = vf_set1(values[r * GROUP + pair * 2]);
                UNROLL for (int i = 0; i < PANEL_LANES; i++) sums[r][i] = vf_fma(even[i], x, sums[r][i]);
            }
            UNROLL for (int r = 0; r < rows; r++) {
                const vf x = vf_set1(values[r * GROUP + pair * 2 + 1]);
                UNROLL for (int i = 0; i < PANEL_LANES; i++) sums[r][i] = vf_fma(odd[i], x, sums[r][i]);
            }
        }
        weights += group_bytes;
        request.next += request.bytes;
        values += t->num_rows * GROUP;
    }
}

#ifdef HAS_BF16_DOT
/* The same with activations in bfloat16. */
INLINE void multiply_bf16_pairs(const int rows, const PanelTask *t, int part, vf (*sums)[PANEL_LANES]) {
    const int64_t groups = t->linear->num_inputs / GROUP, group_bytes = GROUP * PART_OUTPUTS * 2;
    const uint8_t *weights =
        (const uint8_t *)t->linear->weights + (t->panel * NUM_PARTS + part) * groups * group_bytes;
    const uint8_t *values = (const uint8_t *)t->x->values + t->first * GROUP * 2;
    Request request = plan_request(rows, t, weights, group_bytes);
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < PANEL_LANES; i++) sums[r][i] = vf_zero();
    for (int64_t group = 0; group < groups; group++) {
        for (int pair = 0; pair < GROUP / 2; pair++) {
            vi w[PANEL_LANES];
            load_weights(weights, &request, pair * PART_OUTPUTS * 4, group_bytes, w);
            UNROLL for (int r = 0; r < rows; r++)
                UNROLL for (int i = 0; i < PANEL_LANES; i++)
                    sums[r][i] = dot_pairs(sums[r][i], w[i], values + r * GROUP * 2 + pair * 4);
        }
        weights += group_bytes;
        request.next += request.bytes;
        values += t->num_rows * GROUP * 2;
    }
}
#endif

/* The products of one group of inputs: integers, and therefore exact. */
#ifdef HAS_INT8_MATRIX
#include "linear_i8mm.h"
#else
INLINE void multiply_group(const int rows, const uint8_t *weights, const Request *request, const int8_t *values,
                           vi (*acc)[PANEL_LANES]) {
    for (int four = 0; four < GROUP / 4; four++) {
        vi w[PANEL_LANES];
        load_weights(weights, request, four * PART_OUTPUTS * 4, GROUP * PART_OUTPUTS, w);
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < PANEL_LANES; i++)
                acc[r][i] = dot_weights(acc[r][i], w[i], values + r * GROUP + four * 4);
    }
}
#endif

/* The scales of a part's outputs for one group of inputs. */
INLINE void load_scales(const bf16 *scales, vf *of_lanes) {
    if (PANEL_LANES == 1) {
        of_lanes[0] = vf_load_bf16(scales);
        return;
    }
    const vi both = vi_load(scales);
    of_lanes[0] = vi_as_float(vi_shift_left(both, 16));
    of_lanes[PANEL_LANES - 1] = vi_as_float(vi_and(both, vi_set1((int32_t)0xffff0000u)));
}

/* sums as in multiply_bf16; each group's exact sum is scaled and added in the order of the groups. */
INLINE void multiply_int8(const int rows, const PanelTask *t, int part, vf (*sums)[PANEL_LANES]) {
    const int64_t groups = t->linear->num_inputs / GROUP, group_bytes = GROUP * PART_OUTPUTS;
    const int64_t first_group = (t->panel * NUM_PARTS + part) * groups;
    const uint8_t *weights = (const uint8_t *)t->linear->weights + first_group * group_bytes;
    const bf16 *weight_scales = t->linear->scales + first_group * PART_OUTPUTS;
    const int8_t *values = (const int8_t *)t->x->values + t->first * GROUP;
    const float *scales = t->x->scales + t->first;
    const int32_t *offsets = t->x->offsets + t->first;
    Request request = plan_request(rows, t, weights, group_bytes);
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < PANEL_LANES; i++) sums[r][i] = vf_zero();
    for (int64_t group = 0; group < groups; group++) {
        vi acc[ROWS_INT8][PANEL_LANES];
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < PANEL_LANES; i++) acc[r][i] = WEIGHT_ZERO ? vi_set1(offsets[r]) : vi_zero();
        multiply_group(rows, weights, &request, values, acc);
        vf scale[PANEL_LANES];
        load_scales(weight_scales, scale);
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < PANEL_LANES; i++) {
                const vf product = vf_mul(vi_to_float(acc[r][i]), scale[i]);
                sums[r][i] = vf_fma(product, vf_set1(scales[r]), sums[r][i]);
            }
        weights += group_bytes;
        request.next += request.bytes;
        weight_scales += PART_OUTPUTS;
        values += t->num_rows * GROUP;
        scales += t->num_rows;
        offsets += t->num_rows;
    }
}

/* Bring a token's sums to its row of out; half as many where they are gates. */
INLINE void finish_row(const vf *sums, float *row, int64_t panel, int target) {
    float *to = row + panel * PANEL;
    if (target == GATE_SILU || target == GATE_GELU_TANH) {
        const vf gate = target == GATE_SILU ? vf_silu(sums[0]) : vf_gelu_tanh(sums[0]);
        vf_store(row + panel * LANES, vf_mul(gate, sums[1]));
        return;
    }
    UNROLL for (int i = 0; i < PANEL / LANES; i++)
        vf_store(to + i * LANES, target == ADD ? vf_add(sums[i], vf_load(to + i * LANES)) : sums[i]);
}

INLINE void multiply_rows(const int rows, const int kind, const PanelTask *t, float *out, int target) {
    const int64_t outputs = t->linear->num_outputs, width = target >= GATE_SILU ? outputs / 2 : outputs;
    float *row = out + t->first * width;
    vf sums[NUM_PARTS][MAX_TOGETHER][PANEL_LANES], all[PANEL / LANES];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < PANEL / LANES; i++)
            prefetch(row + r * width + (t->panel * PANEL + i * LANES) * width / outputs);
    UNROLL for (int part = 0; part < NUM_PARTS; part++) {
        if (kind == INT8) multiply_int8(rows, t, part, sums[part]);
#ifdef HAS_BF16_DOT
        else if (kind == BF16_FAST) multiply_bf16_pairs(rows, t, part, sums[part]);
#endif
        else multiply_bf16(rows, t, part, sums[part]);
    }
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int i = 0; i < PANEL / LANES; i++) all[i] = sums[i / PANEL_LANES][r][i % PANEL_LANES];
        finish_row(all, row + r * width, t->panel, target);
    }
}

/* How many rows are taken together when so many are left. */
INLINE int next_rows(const int most, int64_t left) {
    if (left >= most) return most;
    return left >= 8 && most > 8 ? 8 : left >= 4 && most > 4 ? 4 : left >= 2 && most > 2 ? 2 : 1;
}

INLINE void multiply_panel(const int kind, PanelTask t, float *out, int target) {
    const int most = kind == INT8 ? ROWS_INT8 : ROWS_BF16;
    t.first = t.begin;
    while (t.first < t.end) {
        const int rows = next_rows(most, t.end - t.first);
        if (rows == most) multiply_rows(most, kind, &t, out, target);
        else if (most > 8 && rows == 8) multiply_rows(8, kind, &t, out, target);
        else if (most > 4 && rows == 4) multiply_rows(4, kind, &t, out, target);
        else if (most > 2 && rows == 2) multiply_rows(2, kind, &t, out, target);
        else multiply_rows(1, kind, &t, out, target);
        t.first += rows;
    }
}

/* Functions of their own: inlined together they are too much for the compiler's registers. */
NOINLINE void multiply_panel_int8(const PanelTask *t, float *out, int target) { multiply_panel(INT8, *t, out, target); }
NOINLINE void multiply_panel_bf16(const PanelTask *t, float *out, int target) { multiply_panel(BF16, *t, out, target); }
#ifdef HAS_BF16_DOT
NOINLINE void multiply_panel_fast(const PanelTask *t, float *out, int target) {
    multiply_panel(BF16_FAST, *t, out, target);
}
#endif

static void gemm_panel(const PanelTask *t, float *out, int target) {
    switch (operand_kind(t->linear)) {
    case INT8: multiply_panel_int8(t, out, target); break;
#ifdef HAS_BF16_DOT
    case BF16_FAST: multiply_panel_fast(t, out, target); break;
#endif
    default: multiply_panel_bf16(t, out, target);
    }
}

typedef struct {
    PanelTask task;
    float *out;
    int target;
    int64_t num_panels, block_rows; /* rows that are taken with one panel */
} MultiplyPhase;

static void multiply_items(const void *context, int64_t begin, int64_t end) {
    const MultiplyPhase *phase = (const MultiplyPhase *)context;
    const int64_t rows = phase->task.num_rows;
    for (int64_t i = begin; i < end; i++) {
        PanelTask task = phase->task;
        task.panel = i % phase->num_panels;
        task.begin = i / phase->num_panels * phase->block_rows;
        task.end = task.begin + phase->block_rows < rows ? task.begin + phase->block_rows : rows;
        gemm_panel(&task, phase->out, phase->target);
    }
}

/*
 * Apply a layer to packed activations; see the targets. Where memory sets the pace, threads take successive panels; else
 * panel by panel, so that none waits for one that lost its core for a while, and so many rows that they stay in the
 * second-level cache.
 */
static void multiply(const Linear *linear, const Operand *operand, float *out, int64_t rows, int target) {
    MultiplyPhase phase = {
        .task = {.linear = linear, .x = operand, .num_rows = rows, .num_ahead = 1},
        .out = out,
        .target = target,
        .num_panels = linear->num_outputs / PANEL,
        .block_rows = rows,
    };
    if (rows < MANY_ROWS) {
        const int64_t chunk = phase.num_panels / (8 * streamward_num_threads());
        streamward_parallel_for(multiply_items, &phase, phase.num_panels, chunk < 1 ? 1 : chunk, CONTIGUOUS);
        return;
    }
    const int64_t value_bytes = operand_kind(linear) == INT8 ? 1 : operand_kind(linear) == BF16 ? 4 : 2;
    const int64_t bytes = rows * linear->num_inputs * value_bytes, parts = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
    phase.block_rows = (rows / parts + MAX_TOGETHER) / MAX_TOGETHER * MAX_TOGETHER;
    const int64_t num_blocks = (rows + phase.block_rows - 1) / phase.block_rows;
    phase.task.num_ahead = streamward_num_threads();
    streamward_parallel_for(multiply_items, &phase, num_blocks * phase.num_panels, 1, IN_ORDER);
}

typedef struct {
    const Linear *linear;
    const float *x;
    const Operand *operand;
    int64_t rows;
} PackPhase;

static void pack_items(const void *context, int64_t begin, int64_t end) {
    const PackPhase *p = (const PackPhase *)context;
    const int64_t groups = p->linear->num_inputs / GROUP;
    const int kind = operand_kind(p->linear);
    for (int64_t i = begin; i < end; i++) { /* group by group: the scales of successive tokens share a line */
        const int64_t group = i / p->rows, row = i % p->rows;
        vf lanes[GROUP_LANES];
        UNROLL for (int j = 0; j < GROUP_LANES; j++) lanes[j] = vf_load(p->x + (row * groups + group) * GROUP + j * LANES);
        pack_group(kind, p->operand, p->rows, row, group, lanes);
    }
}

/* Pack activations [rows, inputs] for a layer. */
static void pack(const Linear *linear, const float *x, const Operand *operand, int64_t rows) {
    const PackPhase phase = {linear, x, operand, rows};
    const int64_t count = rows * (linear->num_inputs / GROUP);
    streamward_parallel_for(pack_items, &phase, count, 64, CONTIGUOUS);
}
