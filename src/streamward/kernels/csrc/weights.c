/* From the stored format, row-major, to panels and back; see linear.h. */
#include "norm_rope.h"

#define SMALLEST_WEIGHT_SCALE 0x1p-126f

typedef struct {
    const Linear *target;
    const void *source;
    const bf16 *scales;
    int64_t num_rows, is_gated, first_output, source_outputs;
} PackWeightPhase;

/* The row of the source that becomes an output of the packed layer: 16 gates, 16 values, 16 gates ... */
INLINE int64_t source_row(const PackWeightPhase *p, int64_t output) {
    if (!p->is_gated) return output;
    const int64_t block = output / LANES, half = p->target->num_outputs / 2;
    return block % 2 * half + block / 2 * LANES + output % LANES;
}

/* Copy sixteen weights' worth of bytes of one output into the layout; words of 4 bytes are what lies together. */
static void pack_output(const PackWeightPhase *p, int64_t output) {
    const int64_t inputs = p->target->num_inputs, row = source_row(p, output) - p->first_output;
    if (row < 0 || row >= p->source_outputs) return;
    const int is_int8 = p->target->kind == INT8;
    const int64_t row_bytes = inputs * (is_int8 ? 1 : 2), num_words = row_bytes / 4;
    const int64_t part = output / PART_OUTPUTS, lane = output % PART_OUTPUTS;
    const uint8_t *from = (const uint8_t *)p->source + row * row_bytes;
    uint8_t *to = (uint8_t *)(uintptr_t)p->target->weights + part * PART_OUTPUTS * row_bytes;
    const uint32_t flip = is_int8 && WEIGHT_ZERO != 0 ? 0x80808080u : 0;
    for (int64_t word = 0; word < num_words; word++) {
        const uint32_t four = (uint32_t)four_bytes(from + word * 4) ^ flip;
#ifdef HAS_INT8_MATRIX
        if (is_int8) { /* [inputs / 8, 8, 2, 8] */
            memcpy(to + word / 2 * 128 + lane / 2 * 16 + lane % 2 * 8 + word % 2 * 4, &four, sizeof(four));
            continue;
        }
#endif
        memcpy(to + (word * PART_OUTPUTS + lane) * 4, &four, sizeof(four));
    }
    if (!is_int8) return;
    const int64_t groups = inputs / GROUP, place = lane % LANES * PANEL_LANES + lane / LANES;
    bf16 *scales = (bf16 *)(uintptr_t)p->target->scales + part * groups * PART_OUTPUTS + place;
    for (int64_t group = 0; group < groups; group++) scales[group * PART_OUTPUTS] = p->scales[row * groups + group];
}

static void pack_weight_items(const void *context, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block++)
        for (int64_t lane = 0; lane < PANEL; lane++)
            pack_output((const PackWeightPhase *)context, block * PANEL + lane);
}

/*
 * Put rows `first_output` to `first_output + source_outputs` of a layer where it reads them. Of a gated layer the first half
 * of all rows are gates. source int8 [source_outputs, inputs] with scales [source_outputs, inputs / 64], or bf16.
 */
static void pack_weight(const Linear *target, const void *source, const bf16 *scales, int64_t first_output,
                        int64_t source_outputs, int64_t is_gated) {
    const PackWeightPhase phase = {.target = target,
                                   .source = source,
                                   .scales = scales,
                                   .is_gated = is_gated,
                                   .first_output = first_output,
                                   .source_outputs = source_outputs};
    streamward_parallel_for(pack_weight_items, &phase, target->num_outputs / PANEL, 2, CONTIGUOUS);
}

typedef struct {
    const void *weight;
    int64_t is_bf16, inputs;
    int8_t *values;
    bf16 *scales;
} QuantizePhase;

static void quantize_items(const void *context, int64_t begin, int64_t end) {
    const QuantizePhase *p = (const QuantizePhase *)context;
    for (int64_t at = begin * p->inputs; at < end * p->inputs; at += GROUP) {
        vf x[GROUP_LANES];
        vi largest = vi_zero();
        UNROLL for (int i = 0; i < GROUP_LANES; i++)
            x[i] = p->is_bf16 ? vf_load_bf16((const bf16 *)p->weight + at + i * LANES)
                              : vf_load((const float *)p->weight + at + i * LANES);
        hadamard_group(x);
        UNROLL for (int i = 0; i < GROUP_LANES; i++) {
            x[i] = vf_mul(x[i], vf_set1(1.0f / GROUP));
            largest = vi_max(largest, magnitude_bits(x[i]));
        }
        bf16 rounded[LANES];
        const float step = float_of_bits((uint32_t)vi_reduce_max(largest)) / 127.0f;
        vf_store_bf16(rounded, vf_max(vf_set1(SMALLEST_WEIGHT_SCALE), vf_set1(step)));
        p->scales[at / GROUP] = rounded[0];
        const vf scale = vf_set1(float_of_bits((uint32_t)rounded[0] << 16));
        UNROLL for (int i = 0; i < GROUP_LANES; i++)
            vi_store_bytes(p->values + at + i * LANES, round_within_127(vf_div(x[i], scale)));
    }
}

/* Round a weight [outputs, inputs] of float32 or bfloat16 to 8 bits: values [outputs, inputs], scales [outputs, inputs / 64]. */
static void quantize_weight(const void *weight, int64_t is_bf16, int64_t outputs, int64_t inputs, int8_t *values,
                            bf16 *scales) {
    const QuantizePhase phase = {weight, is_bf16, inputs, values, scales};
    streamward_parallel_for(quantize_items, &phase, outputs, 8, CONTIGUOUS);
}

typedef struct {
    const int8_t *values;
    const bf16 *scales;
    int64_t inputs;
    float *out;
} DequantizePhase;

static void dequantize_items(const void *context, int64_t begin, int64_t end) {
    const DequantizePhase *p = (const DequantizePhase *)context;
    for (int64_t at = begin * p->inputs; at < end * p->inputs; at += GROUP) {
        const vf scale = vf_set1(float_of_bits((uint32_t)p->scales[at / GROUP] << 16));
        vf x[GROUP_LANES];
        UNROLL for (int i = 0; i < GROUP_LANES; i++)
            x[i] = vf_mul(vi_to_float(vi_load_int8(p->values + at + i * LANES)), scale);
        hadamard_group(x);
        UNROLL for (int i = 0; i < GROUP_LANES; i++) vf_store(p->out + at + i * LANES, x[i]);
    }
}

/* What a weight of 8 bits stands for, float32 [outputs, inputs]. */
static void dequantize_weight(const int8_t *values, const bf16 *scales, int64_t outputs, int64_t inputs, float *out) {
    const DequantizePhase phase = {values, scales, inputs, out};
    streamward_parallel_for(dequantize_items, &phase, outputs, 8, CONTIGUOUS);
}

static void round_bf16_rows(const float *x, bf16 *out, int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) vf_store_bf16(out + i, vf_load(x + i));
    if (i == count) return;
    float last[LANES] = {0};
    bf16 rounded[LANES];
    memcpy(last, x + i, (size_t)(count - i) * sizeof(float));
    vf_store_bf16(rounded, vf_load(last));
    memcpy(out + i, rounded, (size_t)(count - i) * sizeof(bf16));
}

/* For measuring: a product of activations that are packed already. */
static void multiply_once(const Linear *reader, const Operand *operand, float *out, int64_t rows, int64_t target) {
    multiply(reader, operand, out, rows, (int)target);
}
