/*
 * Reads a guard and steps that `verdicts.py` wrote, runs them on one unit, and writes the probabilities of all verdicts:
 * verdicts UNIT FILE [THREADS] > float32 [verdicts, columns]. A percentage goes to standard error. For machines without
 * Python: an emulator.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "types.h"

int64_t streamward_num_units(void);
const char *streamward_unit_name(int64_t unit);
int64_t streamward_is_unit_supported(int64_t unit);
void streamward_set_num_threads(int64_t count);
void streamward_rope_table(double theta, int64_t head_dim, int64_t num_positions, float *cosines, float *sines);
void streamward_decode(int64_t unit, const Decoder *decoder, const Step *step, const Buffers *buffers);
void streamward_heads(int64_t unit, const Linear *pre, const Linear *out, const float *norm, float eps, const float *hidden,
                      const Operand *operand, float *inner, float *logits, int64_t rows);
void streamward_softmax(int64_t unit, const float *x, float *out, int64_t rows, int64_t size);
void streamward_pack_weight(int64_t unit, const Linear *target, const void *source, const bf16 *scales,
                            int64_t first_output, int64_t source_outputs, int64_t is_gated);

enum { MAX_LEVELS = 8 };

typedef struct {
    int64_t num_layers, hidden, heads, kv_heads, head_dim, inner;
    int64_t page_tokens, num_pages, max_rows, max_tokens, vocabulary, num_verdicts, num_columns;
} Sizes;

/* Of one side. */
typedef struct {
    int64_t num_levels, num_labels;
    Linear pre, out;
    const float *norm;
    float offsets[MAX_LEVELS];
} Heads;

static int64_t unit;
static FILE *file;

static void *room(int64_t size) {
    void *memory = calloc(1, (size_t)size + 64);
    if (!memory) exit(2);
    return memory;
}

static void *take(void *target, int64_t size) {
    if (size && fread(target, (size_t)size, 1, file) != 1) {
        fprintf(stderr, "error: the file ends too early\n");
        exit(2);
    }
    return target;
}

static float *take_floats(int64_t count) { return take(room(count * 4), count * 4); }

static Linear take_linear(int64_t is_gated) {
    int64_t head[3];
    take(head, sizeof(head));
    const int64_t outputs = head[1], inputs = head[2], is_int8 = head[0] == INT8, bytes = outputs * inputs * (is_int8 ? 1 : 2);
    void *values = take(room(bytes), bytes);
    bf16 *scales = is_int8 ? take(room(outputs * inputs / GROUP * 2), outputs * inputs / GROUP * 2) : NULL;
    const Linear linear = {room(bytes), is_int8 ? room(outputs * inputs / GROUP * 2) : NULL, inputs, outputs, head[0]};
    streamward_pack_weight(unit, &linear, values, scales, 0, outputs, is_gated);
    free(values), free(scales);
    return linear;
}

static Operand make_operand(int64_t rows, int64_t inputs) {
    return (Operand){room(rows * inputs * 4), room(rows * inputs / GROUP * 4), room(rows * inputs / GROUP * 4)};
}

static void judge(const Heads *heads, float eps, const float *hidden, const Operand *operand, float *out) {
    float inner[1024], logits[64], risk[MAX_LEVELS];
    streamward_heads(unit, &heads->pre, &heads->out, heads->norm, eps, hidden, operand, inner, logits, 1);
    for (int64_t i = 0; i < heads->num_levels; i++) risk[i] = logits[i] + heads->offsets[i];
    streamward_softmax(unit, risk, out, 1, heads->num_levels);
    streamward_softmax(unit, logits + heads->num_levels, out + heads->num_levels, 1, heads->num_labels - heads->num_levels);
}

int main(int argc, char **argv) {
    Sizes s;
    double numbers[2];
    Heads heads[2];
    for (unit = 0; unit < streamward_num_units(); unit++)
        if (argc > 2 && !strcmp(streamward_unit_name(unit), argv[1])) break;
    file = argc > 2 ? fopen(argv[2], "rb") : NULL;
    if (unit == streamward_num_units() || !streamward_is_unit_supported(unit) || !file) {
        fprintf(stderr, "usage: verdicts UNIT FILE [THREADS], a unit that this machine runs\n");
        return 2;
    }
    streamward_set_num_threads(argc > 3 ? atoi(argv[3]) : 1);
    take(&s, sizeof(s));
    take(numbers, sizeof(numbers));
    const float eps = (float)numbers[1];
    const int64_t d = s.head_dim, wide_heads = s.heads * d, layer_bytes = s.page_tokens * s.kv_heads * 4 * d;
    int8_t *embeddings = take(room(s.vocabulary * s.hidden), s.vocabulary * s.hidden);
    bf16 *scales = take(room(s.vocabulary * s.hidden / GROUP * 2), s.vocabulary * s.hidden / GROUP * 2);
    float *cosines = room(s.max_tokens * d / 2 * 4), *sines = room(s.max_tokens * d / 2 * 4);
    streamward_rope_table(numbers[0], d, s.max_tokens, cosines, sines);
    uint8_t *cache = room(s.num_pages * s.num_layers * layer_bytes);
    Layer *layers = room(s.num_layers * (int64_t)sizeof(Layer));
    Linear *linears = room(s.num_layers * 4 * (int64_t)sizeof(Linear));
    for (int64_t i = 0; i < s.num_layers; i++) {
        for (int64_t j = 0; j < 4; j++) linears[i * 4 + j] = take_linear(j == 2);
        layers[i] = (Layer){.qkv = linears + i * 4, .out = linears + i * 4 + 1, .gate_up = linears + i * 4 + 2,
                            .down = linears + i * 4 + 3, .cosines = cosines, .sines = sines, .cache = cache + i * layer_bytes};
        layers[i].input_norm = take_floats(s.hidden), layers[i].post_norm = take_floats(s.hidden);
    }
    const Decoder decoder = {
        .num_layers = s.num_layers, .hidden_size = s.hidden, .num_heads = s.heads, .activation = SILU, .eps = eps,
        .embedding_scale = 1.0f, .cache = {s.kv_heads, d, s.page_tokens, s.num_layers * layer_bytes, 0},
        .layers = layers, .embeddings = embeddings, .embedding_scales = scales, .norm = take_floats(s.hidden)};
    for (int i = 0; i < 2; i++) {
        take(&heads[i].num_levels, 16);
        heads[i].pre = take_linear(0), heads[i].out = take_linear(0);
        heads[i].norm = take_floats(heads[i].pre.num_outputs);
        if (heads[i].num_levels > MAX_LEVELS || heads[i].pre.num_outputs > 1024 || heads[i].out.num_outputs > 64) return 2;
        take(heads[i].offsets, heads[i].num_levels * 4);
    }
    const int64_t qkv = wide_heads + 2 * s.kv_heads * d, wide = qkv > s.inner ? qkv : s.inner;
    const int64_t widest = s.inner > wide_heads ? s.inner : wide_heads;
    const Buffers buffers = {.hidden = room(s.max_rows * s.hidden * 4), .branch = room(s.max_rows * s.hidden * 4),
                             .wide = room(s.max_rows * wide * 4), .q = room(s.max_rows * wide_heads * 4),
                             .operand = make_operand(s.max_rows, widest > s.hidden ? widest : s.hidden),
                             .final = room(s.max_rows * s.hidden * 4)};
    float *found = room(s.num_verdicts * s.num_columns * 4);
    int64_t num_steps, counts[4];
    take(&num_steps, 8);
    for (int64_t i = 0; i < num_steps; i++) {
        take(counts, sizeof(counts)); /* rows, items, pages, verdicts */
        int64_t *rows = take(room(counts[0] * 24), counts[0] * 24);
        Item *items = take(room(counts[1] * (int64_t)sizeof(Item)), counts[1] * (int64_t)sizeof(Item));
        int32_t *pages = take(room(counts[2] * 4), counts[2] * 4);
        int64_t *verdicts = take(room(counts[3] * 24), counts[3] * 24);
        const Step step = {counts[0], counts[1], rows, rows + counts[0], rows + 2 * counts[0], items, pages};
        streamward_decode(unit, &decoder, &step, &buffers);
        for (int64_t j = 0; j < counts[3]; j++) /* side, row, verdict */
            judge(&heads[verdicts[j * 3]], eps, buffers.final + verdicts[j * 3 + 1] * s.hidden, &buffers.operand,
                  found + verdicts[j * 3 + 2] * s.num_columns);
        free(rows), free(items), free(pages), free(verdicts);
        if (i * 100 / num_steps != (i + 1) * 100 / num_steps) fprintf(stderr, "%d\n", (int)((i + 1) * 100 / num_steps));
    }
    fwrite(found, (size_t)(s.num_columns * 4), (size_t)s.num_verdicts, stdout);
    return 0;
}
