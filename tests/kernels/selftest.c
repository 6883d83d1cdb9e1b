/*
 * Runs every operation of one unit on numbers that are the same on every machine, and prints a hash for each case: equal
 * lines mean equal bits. For sanitizers, and for machines without Python (an emulator): selftest UNIT [THREADS].
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
void streamward_linear(int64_t unit, const Linear *linear, const float *x, const Operand *operand, float *out, int64_t rows);
void streamward_heads(int64_t unit, const Linear *pre, const Linear *out, const float *norm, float eps, const float *hidden,
                      const Operand *operand, float *inner, float *logits, int64_t rows);
void streamward_softmax(int64_t unit, const float *x, float *out, int64_t rows, int64_t size);
void streamward_pack_weight(int64_t unit, const Linear *target, const void *source, const bf16 *scales,
                            int64_t first_output, int64_t source_outputs, int64_t is_gated);
void streamward_quantize_weight(int64_t unit, const void *weight, int64_t is_bf16, int64_t outputs, int64_t inputs,
                                int8_t *values, bf16 *scales);
void streamward_dequantize_weight(int64_t unit, const int8_t *values, const bf16 *scales, int64_t outputs, int64_t inputs,
                                  float *out);
void streamward_round_bf16(int64_t unit, const float *x, bf16 *out, int64_t count);

static int64_t unit;
static uint64_t state;

static uint32_t next_bits(void) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33);
}

/* From -1 to 1; the sum of three looks like noise. */
static float next_float(void) { return (float)((int32_t)(next_bits() & 0xffffff) - 0x800000) / 8388608.0f; }
static float noise(void) { return next_float() + next_float() + next_float(); }

static uint64_t hash_of(const void *data, size_t size, uint64_t hash) {
    for (size_t i = 0; i < size; i++) hash = (hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3ull;
    return hash;
}

static void report(const char *name, const void *data, size_t size) {
    printf("%s %016llx\n", name, (unsigned long long)hash_of(data, size, 0xcbf29ce484222325ull));
}

static void *room(size_t size) {
    void *memory = calloc(1, size);
    if (!memory) exit(2);
    return memory;
}

static float *random_floats(int64_t count, float scale) {
    float *x = room((size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; i++) x[i] = noise() * scale;
    return x;
}

static float *random_norm(int64_t size) {
    float *x = random_floats(size, 0.2f);
    for (int64_t i = 0; i < size; i++) x[i] += 1.0f;
    return x;
}

static Linear *random_linear(int64_t outputs, int64_t inputs, int64_t kind, int64_t is_gated) {
    const size_t count = (size_t)(outputs * inputs);
    float *weight = random_floats(outputs * inputs, 0.06f);
    Linear *linear = room(sizeof(*linear));
    linear->num_inputs = inputs, linear->num_outputs = outputs, linear->kind = kind;
    linear->weights = room(count * (kind == INT8 ? 1 : 2));
    if (kind == INT8) {
        int8_t *values = room(count);
        bf16 *scales = room(count / GROUP * sizeof(bf16));
        linear->scales = room(count / GROUP * sizeof(bf16));
        streamward_quantize_weight(unit, weight, 0, outputs, inputs, values, scales);
        report("quantize", values, count);
        streamward_pack_weight(unit, linear, values, scales, 0, outputs, is_gated);
        streamward_dequantize_weight(unit, values, scales, outputs, inputs, weight);
        report("dequantize", weight, count * sizeof(float));
        free(values), free(scales);
    } else {
        bf16 *values = room(count * sizeof(bf16));
        streamward_round_bf16(unit, weight, values, outputs * inputs);
        streamward_pack_weight(unit, linear, values, NULL, 0, outputs, is_gated);
        free(values);
    }
    free(weight);
    return linear;
}

static void free_linear(Linear *linear) {
    free((void *)(uintptr_t)linear->weights), free((void *)(uintptr_t)linear->scales), free(linear);
}

static Operand make_operand(int64_t rows, int64_t inputs) {
    const size_t count = (size_t)(rows * inputs);
    return (Operand){room(count * sizeof(float)), room(count / GROUP * sizeof(float)), room(count / GROUP * sizeof(int32_t))};
}

static void free_operand(Operand operand) { free(operand.values), free(operand.scales), free(operand.offsets); }

static void check_products(void) {
    static const int64_t cases[][3] = {{64, 64, 1},   {192, 576, 3},  {128, 1536, 4},  {64, 12288, 2},
                                       {960, 576, 7}, {320, 128, 50}, {64, 3072, 101}, {64, 192, 26}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (int64_t kind = INT8; kind <= BF16; kind++) {
            const int64_t outputs = cases[i][0], inputs = cases[i][1], rows = cases[i][2];
            char name[64];
            Linear *linear = random_linear(outputs, inputs, kind, 0);
            float *x = random_floats(rows * inputs, 1.0f), *out = room((size_t)(rows * outputs) * sizeof(float));
            x[1] = 1e20f;
            Operand operand = make_operand(rows, inputs);
            streamward_linear(unit, linear, x, &operand, out, rows);
            snprintf(name, sizeof(name), "linear %d %dx%d k=%d", (int)kind, (int)outputs, (int)inputs, (int)rows);
            report(name, out, (size_t)(rows * outputs) * sizeof(float));
            free_operand(operand), free_linear(linear), free(x), free(out);
        }
}

static void check_heads(void) {
    Linear *pre = random_linear(64, 128, BF16, 0), *out = random_linear(64, 64, BF16, 0);
    float *norm = random_norm(64), *hidden = random_floats(5 * 128, 1.0f);
    float *inner = room(5 * 64 * sizeof(float)), *logits = room(5 * 64 * sizeof(float));
    Operand operand = make_operand(5, 128);
    streamward_heads(unit, pre, out, norm, 1e-6f, hidden, &operand, inner, logits, 5);
    report("heads", logits, 5 * 64 * sizeof(float));
    streamward_softmax(unit, logits, inner, 40, 8);
    report("softmax 8", inner, 5 * 64 * sizeof(float));
    streamward_softmax(unit, logits, inner, 8, 40);
    report("softmax 40", inner, 5 * 64 * sizeof(float));
    free_operand(operand), free_linear(pre), free_linear(out);
    free(norm), free(hidden), free(inner), free(logits);
}

typedef struct {
    const char *name;
    int64_t num_layers, hidden, heads, kv_heads, head_dim, inner, has_qk_norm, is_gemma;
} Family;

enum { TOKENS = 150, PAGE_TOKENS = 48, VOCABULARY = 50, STREAMS = 3 };

static void check_decoder(const Family *f, int64_t exact_layer, int64_t int8_cache) {
    const int64_t d = f->head_dim, half = d / 2, heads = f->heads * d, kv = f->kv_heads * d, num_pages = 16;
    const int64_t exact = 4 + 2 * (d / 32 + 1), token_bytes = f->kv_heads * (int8_cache ? 2 * d + exact : 4 * d);
    const int64_t layer_bytes = PAGE_TOKENS * token_bytes, page_bytes = f->num_layers * layer_bytes;
    float *cosines = room((size_t)(TOKENS * half) * sizeof(float)), *sines = room((size_t)(TOKENS * half) * sizeof(float));
    uint8_t *cache = room((size_t)(num_pages * page_bytes));
    memset(cache, 0xff, (size_t)(num_pages * page_bytes)); /* NaN in everything that was not stored */
    Layer *layers = room((size_t)f->num_layers * sizeof(Layer));
    streamward_rope_table(1e4, d, TOKENS, cosines, sines);
    report("rope", cosines, (size_t)(TOKENS * half) * sizeof(float));
    for (int64_t i = 0; i < f->num_layers; i++) {
        const int64_t kind = i == exact_layer ? BF16 : INT8;
        float *direction = room((size_t)kv * sizeof(float));
        for (int64_t head = 0; head < f->kv_heads; head++) direction[head * d + 3] = 0.6f, direction[head * d + 40] = 0.8f;
        layers[i] = (Layer){
            .qkv = random_linear(heads + 2 * kv, f->hidden, kind, 0),
            .out = random_linear(f->hidden, heads, kind, 0),
            .gate_up = random_linear(2 * f->inner, f->hidden, kind, 1),
            .down = random_linear(f->hidden, f->inner, kind, 0),
            .input_norm = random_norm(f->hidden),
            .post_norm = random_norm(f->hidden),
            .q_norm = f->has_qk_norm ? random_norm(d) : NULL,
            .k_norm = f->has_qk_norm ? random_norm(d) : NULL,
            .attention_out_norm = f->is_gemma ? random_norm(f->hidden) : NULL,
            .mlp_out_norm = f->is_gemma ? random_norm(f->hidden) : NULL,
            .mean_key = random_floats(kv, 0.5f),
            .outlier_direction = direction,
            .cosines = cosines,
            .sines = sines,
            .window = f->is_gemma && i != 1 ? 20 : 0,
            .cache = cache + i * layer_bytes,
        };
    }
    float *table = random_floats(VOCABULARY * f->hidden, 1.0f), *norm = random_norm(f->hidden);
    int8_t *rows8 = room((size_t)(VOCABULARY * f->hidden));
    bf16 *rows16 = room((size_t)(VOCABULARY * f->hidden) * sizeof(bf16)), *scales = room((size_t)(VOCABULARY * f->hidden));
    streamward_quantize_weight(unit, table, 0, VOCABULARY, f->hidden, rows8, scales);
    streamward_round_bf16(unit, table, rows16, VOCABULARY * f->hidden);
    const Decoder decoder = {
        .num_layers = f->num_layers,
        .hidden_size = f->hidden,
        .num_heads = f->heads,
        .activation = f->is_gemma ? GELU_TANH : SILU,
        .eps = 1e-6f,
        .embedding_scale = f->is_gemma ? 11.3125f : 1.0f,
        .cache = {f->kv_heads, d, PAGE_TOKENS, page_bytes, int8_cache},
        .layers = layers,
        .embeddings = f->is_gemma ? (void *)rows8 : (void *)rows16,
        .embedding_scales = f->is_gemma ? scales : NULL,
        .norm = norm,
    };
    const int64_t max_rows = 3 * 40, most = heads > f->inner ? heads : f->inner, widest = most > f->hidden ? most : f->hidden;
    const int64_t wide = heads + 2 * kv > f->inner ? heads + 2 * kv : f->inner;
    Buffers b = {
        .hidden = room((size_t)(max_rows * f->hidden) * sizeof(float)),
        .branch = room((size_t)(max_rows * f->hidden) * sizeof(float)),
        .wide = room((size_t)(max_rows * wide) * sizeof(float)),
        .q = room((size_t)(max_rows * heads) * sizeof(float)),
        .operand = make_operand(max_rows, widest),
        .final = room((size_t)(max_rows * f->hidden) * sizeof(float)),
    };
    static const int32_t counts[] = {1, 4, 2, 13, 40, 1, 1, 3, 37, 9};
    int32_t done[STREAMS] = {0};
    uint64_t hash = 0xcbf29ce484222325ull;
    for (int turn = 0; done[0] < TOKENS - 1 || done[1] < TOKENS - 1 || done[2] < TOKENS - 1; turn++) {
        int64_t ids[3 * 40], positions[3 * 40], slots[3 * 40], num_rows = 0;
        int32_t pages[STREAMS * 4];
        Item items[STREAMS * 40];
        int64_t num_items = 0;
        for (int32_t stream = 0; stream < STREAMS; stream++) {
            for (int32_t page = 0; page < 4; page++) pages[stream * 4 + page] = (stream * 5 + page * 3) % 16;
            const int32_t left = TOKENS - 1 - done[stream], wanted = counts[(turn + stream * 3) % 10];
            const int32_t count = wanted < left ? wanted : left, most_tokens = 64 / (int32_t)(f->heads / f->kv_heads);
            for (int32_t start = 0; start < count; start += most_tokens) {
                const int32_t n = count - start < most_tokens ? count - start : most_tokens;
                items[num_items++] = (Item){(int32_t)num_rows + start, n, done[stream] + start + n, stream * 4};
            }
            for (int32_t i = 0; i < count; i++, num_rows++) {
                const int32_t at = done[stream] + i;
                ids[num_rows] = (at * 7 + stream * 11) % VOCABULARY;
                positions[num_rows] = at;
                slots[num_rows] = pages[stream * 4 + at / PAGE_TOKENS] * PAGE_TOKENS + at % PAGE_TOKENS;
            }
            done[stream] += count;
        }
        const Step step = {num_rows, num_items, ids, positions, slots, items, pages};
        streamward_decode(unit, &decoder, &step, &b);
        hash = hash_of(b.final, (size_t)(num_rows * f->hidden) * sizeof(float), hash);
    }
    printf("%s exact layer %d, int8 cache %d: %016llx\n", f->name, (int)exact_layer, (int)int8_cache,
           (unsigned long long)hash);
    for (int64_t i = 0; i < f->num_layers; i++) {
        const Linear *linears[] = {layers[i].qkv, layers[i].out, layers[i].gate_up, layers[i].down};
        const float *vectors[] = {layers[i].input_norm, layers[i].post_norm, layers[i].q_norm, layers[i].k_norm,
                                  layers[i].attention_out_norm, layers[i].mlp_out_norm, layers[i].mean_key,
                                  layers[i].outlier_direction};
        for (int j = 0; j < 4; j++) free_linear((Linear *)(uintptr_t)linears[j]);
        for (int j = 0; j < 8; j++) free((void *)(uintptr_t)vectors[j]);
    }
    free(cosines), free(sines), free(cache), free(layers), free(table), free(norm), free(rows8), free(rows16), free(scales);
    free(b.hidden), free(b.branch), free(b.wide), free(b.q), free_operand(b.operand), free(b.final);
}

int main(int argc, char **argv) {
    static const Family families[] = {
        {"llama", 2, 128, 6, 2, 64, 192, 0, 0},
        {"qwen3", 2, 192, 4, 2, 128, 192, 1, 0},
        {"gemma", 3, 128, 4, 1, 256, 192, 1, 1},
    };
    for (unit = 0; unit < streamward_num_units(); unit++)
        if (argc > 1 && !strcmp(streamward_unit_name(unit), argv[1])) break;
    if (unit == streamward_num_units() || !streamward_is_unit_supported(unit)) {
        fprintf(stderr, "usage: selftest UNIT [THREADS], a unit that this machine runs\n");
        return 2;
    }
    streamward_set_num_threads(argc > 2 ? atoi(argv[2]) : 1);
    check_products();
    check_heads();
    for (int i = 0; i < 3; i++)
        for (int64_t int8_cache = 0; int8_cache < 2; int8_cache++) check_decoder(&families[i], i, int8_cache);
    streamward_set_num_threads(1);
    return 0;
}
