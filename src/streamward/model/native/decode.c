/*
 * All layers of a decoder in one call and one parallel region. Sums between layers are float32; bfloat16 are the cache,
 * the queries and what the heads read.
 */
#if defined(__x86_64__)

#include "layers.h"

typedef struct {
    const Linear *qkv, *out, *gate_up, *down;
    const bf16 *input_norm, *q_norm, *k_norm, *post_norm; /* of queries and keys: NULL if there are none */
    const float *usual_keys;                              /* [num_kv_heads, d], left out of all keys; or NULL */
    const float *directions;                              /* the same, for a cache of 8 bits; see cache.h */
    uint8_t *cache;                                       /* of this layer in the first page */
} Layer;

typedef struct {
    long num_layers, hidden_size;
    float eps;
    const Layer *layers;
    const bf16 *embeddings; /* [vocabulary, hidden_size] */
    const bf16 *norm;
} Decoder;

/* Memory for one step. */
typedef struct {
    float *hidden;   /* [rows, hidden_size] */
    float *wide;     /* [rows, outputs of queries, keys and values, or inner size] */
    bf16 *q;         /* [rows, H, d] */
    Operand operand; /* room for the widest layer's inputs */
    bf16 *final;     /* [rows, hidden_size] */
} Buffers;

static void embed(const Decoder *decoder, const int64_t *ids, float *hidden, long rows) {
    const long size = decoder->hidden_size;
#pragma omp for schedule(static)
    for (long row = 0; row < rows; row++)
        for (long i = 0; i < size; i += LANES)
            _mm512_storeu_ps(hidden + row * size + i, load_bf16(decoder->embeddings + ids[row] * size + i));
}

static void run_layer(const Layer *layer, float eps, const RotatePlan *rotate, const AttendPlan *attend,
                      const Buffers *b, long rows) {
    streamward_norm_pack(layer->qkv, b->hidden, layer->input_norm, eps, &b->operand, rows);
    streamward_multiply(layer->qkv, &b->operand, b->wide, rows, STORE);
    streamward_rotate_store(rotate, b->wide, layer->q_norm, layer->k_norm, layer->usual_keys,
                            layer->directions, b->q, layer->cache, rows);
    streamward_attend(attend, layer->out, b->q, layer->directions, layer->cache, &b->operand, rows);
    streamward_multiply(layer->out, &b->operand, b->hidden, rows, ADD);
    streamward_norm_pack(layer->gate_up, b->hidden, layer->post_norm, eps, &b->operand, rows);
    streamward_multiply(layer->gate_up, &b->operand, b->wide, rows, GATE);
    streamward_pack(layer->down, b->wide, &b->operand, rows);
    streamward_multiply(layer->down, &b->operand, b->hidden, rows, ADD);
}

/* Read the new tokens of all streams: store their keys and values, and give their hidden states after the last norm. */
void streamward_decode(const Decoder *decoder, const int64_t *ids, const RotatePlan *rotate, const AttendPlan *attend,
                       const Buffers *b, long rows) {
#pragma omp parallel
    {
        embed(decoder, ids, b->hidden, rows);
        for (long i = 0; i < decoder->num_layers; i++)
            run_layer(decoder->layers + i, decoder->eps, rotate, attend, b, rows);
        streamward_norm(b->hidden, decoder->norm, decoder->eps, b->final, rows, decoder->hidden_size);
    }
}

/* Pack the rows of a decoder's output for a layer of bfloat16. */
static void pack_hidden(const Linear *reader, const bf16 *hidden, const Operand *operand, long rows) {
    const long groups = reader->num_inputs / GROUP;
#pragma omp for schedule(static)
    for (long i = 0; i < rows * groups; i++)
        memcpy((bf16 *)operand->values + (i % groups * rows + i / groups) * GROUP, hidden + i * GROUP, GROUP * sizeof(bf16));
}

/* Logits [rows, outputs] of hidden [rows, D]: out(RMSNorm(pre(h)) * norm), both of bfloat16; inner [rows, outputs of pre] is room. */
void streamward_heads(const Linear *pre, const Linear *out, const bf16 *norm, float eps, const bf16 *hidden,
                      const Operand *operand, float *inner, float *logits, long rows) {
#pragma omp parallel
    {
        pack_hidden(pre, hidden, operand, rows);
        streamward_multiply(pre, operand, inner, rows, STORE);
        streamward_norm_pack(out, inner, norm, eps, operand, rows);
        streamward_multiply(out, operand, logits, rows, STORE);
    }
}

/* out [rows, outputs] = x W^T in the order of the panels; `out` float32. For a layer by itself. */
void streamward_linear(const Linear *linear, const float *x, const Operand *operand, float *out, long rows) {
#pragma omp parallel
    {
        streamward_pack(linear, x, operand, rows);
        streamward_multiply(linear, operand, out, rows, STORE);
    }
}

#endif
