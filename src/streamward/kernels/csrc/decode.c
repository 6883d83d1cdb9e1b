/* All layers of a decoder in one call. Sums between layers are float32. */
#include "norm_rope.h"

#define EMBED_CHUNK 4

typedef struct {
    const Decoder *decoder;
    const int64_t *ids;
    float *hidden;
} EmbedPhase;

static void embed_items(const void *context, int64_t begin, int64_t end) {
    const EmbedPhase *p = (const EmbedPhase *)context;
    const Decoder *decoder = p->decoder;
    const int64_t size = decoder->hidden_size;
    const vf factor = vf_set1(decoder->embedding_scale);
    for (int64_t row = begin; row < end; row++) {
        const int64_t first = p->ids[row] * size;
        float *to = p->hidden + row * size;
        if (!decoder->embedding_scales) {
            for (int64_t i = 0; i < size; i += LANES)
                vf_store(to + i, vf_mul(vf_load_bf16((const bf16 *)decoder->embeddings + first + i), factor));
            continue;
        }
        for (int64_t at = 0; at < size; at += GROUP) { /* H(Hw / 64) = w */
            const uint32_t bits = decoder->embedding_scales[(first + at) / GROUP];
            const vf scale = vf_set1(float_of_bits(bits << 16));
            vf x[GROUP_LANES];
            UNROLL for (int i = 0; i < GROUP_LANES; i++) {
                const int8_t *from = (const int8_t *)decoder->embeddings + first + at + i * LANES;
                x[i] = vf_mul(vi_to_float(vi_load_int8(from)), scale);
            }
            hadamard_group(x);
            UNROLL for (int i = 0; i < GROUP_LANES; i++) vf_store(to + at + i * LANES, vf_mul(x[i], factor));
        }
    }
}

/* hidden += RMSNorm(layer(operand)), or without a norm. */
static void add_branch(const Linear *linear, const float *norm, const Decoder *decoder, const Buffers *b, int64_t rows) {
    if (!norm) {
        multiply(linear, &b->operand, b->hidden, rows, ADD);
        return;
    }
    multiply(linear, &b->operand, b->branch, rows, STORE);
    norm_rows(b->branch, norm, decoder->eps, b->hidden, rows, decoder->hidden_size, 1);
}

static void run_layer(const Decoder *decoder, const Layer *layer, const Step *step, const Buffers *b, float *q) {
    const int64_t rows = step->num_rows;
    const int gate = decoder->activation == GELU_TANH ? GATE_GELU_TANH : GATE_SILU;
    norm_pack(layer->qkv, b->hidden, layer->input_norm, decoder->eps, &b->operand, rows);
    multiply(layer->qkv, &b->operand, b->wide, rows, STORE);
    rotate_store(decoder, layer, step, b->wide, q);
    attend(decoder, layer, step, q, &b->operand);
    add_branch(layer->out, layer->attention_out_norm, decoder, b, rows);
    norm_pack(layer->gate_up, b->hidden, layer->post_norm, decoder->eps, &b->operand, rows);
    multiply(layer->gate_up, &b->operand, b->wide, rows, gate);
    pack(layer->down, b->wide, &b->operand, rows);
    add_branch(layer->down, layer->mlp_out_norm, decoder, b, rows);
}

/* Read the new tokens of all streams: store their keys and values, and give their hidden states after the last norm. */
static void decode(const Decoder *decoder, const Step *step, const Buffers *b) {
    const int64_t rows = step->num_rows, size = decoder->hidden_size;
    const EmbedPhase embed = {decoder, step->ids, b->hidden};
    int64_t tap = 0;
    streamward_parallel_for(embed_items, &embed, rows, EMBED_CHUNK, CONTIGUOUS);
    for (int64_t i = 0; i < decoder->num_layers; i++) {
        float *q = b->queries ? b->queries + i * rows * decoder->num_heads * decoder->cache.head_dim : b->q;
        run_layer(decoder, decoder->layers + i, step, b, q);
        for (; tap < b->num_taps && b->tap_layers[tap] == i; tap++)
            memcpy(b->taps + tap * rows * size, b->hidden, (size_t)(rows * size) * sizeof(float));
    }
    norm_rows(b->hidden, decoder->norm, decoder->eps, b->final, rows, size, 0);
}

/* out [rows, outputs] = x W^T in the order of the panels. */
static void linear(const Linear *reader, const float *x, const Operand *operand, float *out, int64_t rows) {
    pack(reader, x, operand, rows);
    multiply(reader, operand, out, rows, STORE);
}

/* Logits [rows, outputs] of hidden [rows, D]: out(RMSNorm(pre(h)) * norm); inner [rows, outputs of pre] is room. */
static void heads(const Linear *pre, const Linear *out, const float *norm, float eps, const float *hidden,
                  const Operand *operand, float *inner, float *logits, int64_t rows) {
    pack(pre, hidden, operand, rows);
    multiply(pre, operand, inner, rows, STORE);
    norm_pack(out, inner, norm, eps, operand, rows);
    multiply(out, operand, logits, rows, STORE);
}

/* Softmax of each of some rows of any number of values. */
static void softmax_rows(const float *x, float *out, int64_t rows, int64_t size) {
    for (int64_t row = 0; row < rows; row++) {
        const float *from = x + row * size;
        float *to = out + row * size, top = from[0], padded[LANES];
        for (int64_t i = 0; i < size; i++) top = from[i] > top ? from[i] : top;
        vf sum = vf_zero();
        for (int64_t at = 0; at < size; at += LANES) {
            const int64_t count = size - at < LANES ? size - at : LANES;
            for (int64_t i = 0; i < LANES; i++) padded[i] = i < count ? from[at + i] : top;
            vf weight = vf_exp2(vf_mul(vf_sub(vf_load(padded), vf_set1(top)), vf_set1(LOG2_E)));
            weight = vf_select(vm_below((int32_t)count), weight, vf_zero());
            sum = vf_add(sum, weight);
            vf_store(padded, weight);
            memcpy(to + at, padded, (size_t)count * sizeof(float));
        }
        const float total = vf_reduce_add(sum);
        for (int64_t i = 0; i < size; i++) to[i] = to[i] / total;
    }
}
