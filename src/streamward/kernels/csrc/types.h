/*
 * What the caller fills in, for all units alike; the Python side is `structs.py`. Arrays are row-major, sizes count elements.
 *
 * A unit is this code compiled for one instruction set. All units compute the same bits, but for what is marked `fast`.
 */
#ifndef STREAMWARD_TYPES_H
#define STREAMWARD_TYPES_H

#include <stdint.h>

#define GROUP 64 /* inputs with one scale, taken together */
#define STRUCTS_VERSION 1 /* changes with the structures below: `_VERSION` in library.py */

typedef uint16_t bf16;

/* How the weights of a linear layer are stored, and how they are multiplied. */
enum {
    INT8,      /* integers within +-127 with a scale for each 64 inputs; activations are rounded to 8 bits likewise */
    BF16,      /* bfloat16; activations stay float32, products and sums are float32 FMA */
    BF16_FAST, /* bfloat16; activations are rounded to bfloat16 where the unit has dot products of pairs */
};

/* A linear layer without bias, packed by `streamward_pack_weight`. */
typedef struct {
    const void *weights;
    const bf16 *scales; /* of INT8; else NULL */
    int64_t num_inputs, num_outputs; /* multiples of 64 */
    int64_t kind;
} Linear;

/* Activations of some tokens, by groups: what is multiplied together lies side by side. Room for float32 values suffices. */
typedef struct {
    void *values;     /* float32, bf16 or int8 [inputs / 64, rows, 64] */
    float *scales;    /* [inputs / 64, rows] of INT8 */
    int32_t *offsets; /* the same: what the 128 that some units add to every weight adds to a sum, negative */
} Operand;

typedef struct {
    int64_t num_kv_heads, head_dim, page_tokens;
    int64_t page_bytes; /* from a page to the next */
    int64_t is_int8;
} CacheShape;

typedef struct {
    const Linear *qkv, *out, *gate_up, *down;
    const float *input_norm, *post_norm;              /* [hidden_size], before attention and MLP */
    const float *q_norm, *k_norm;                     /* [head_dim]; NULL if there are none */
    const float *attention_out_norm, *mlp_out_norm;   /* [hidden_size], of what attention and MLP add; or NULL */
    const float *mean_key, *outlier_direction;        /* [num_kv_heads, head_dim], for a cache of 8 bits; see cache.h */
    const float *cosines, *sines;                     /* [positions, head_dim / 2] */
    int64_t window;                                   /* tokens a query sees, itself among them; 0 for all */
    uint8_t *cache;                                   /* of this layer in the first page */
} Layer;

enum { SILU, GELU_TANH };

typedef struct {
    int64_t num_layers, hidden_size, num_heads, activation;
    float eps, embedding_scale;
    CacheShape cache;
    int64_t fast_attention; /* bfloat16 dot products where the unit has them; of a cache in bfloat16 */
    const Layer *layers;
    const void *embeddings;       /* bf16 or int8 [vocabulary, hidden_size] */
    const bf16 *embedding_scales; /* [vocabulary, hidden_size / 64] of int8; else NULL */
    const float *norm;
} Decoder;

/* Some new tokens of one stream, attended to together. */
typedef struct {
    int32_t first_row, num_tokens; /* rows of the step */
    int32_t num_keys;              /* tokens its last new token sees where there is no window */
    int32_t first_page;            /* of its stream, in the table of pages */
} Item;

/* The new tokens of all streams. */
typedef struct {
    int64_t num_rows, num_items;
    const int64_t *ids, *positions, *slots; /* one for each row; slot = page * page_tokens + offset */
    const Item *items;
    const int32_t *pages;
} Step;

/* Memory for one step. */
typedef struct {
    float *hidden;   /* [rows, hidden_size] */
    float *branch;   /* the same; needed where there are norms of what is added */
    float *wide;     /* [rows, outputs of queries, keys and values, or inner size] */
    float *q;        /* [rows, num_heads, head_dim] */
    Operand operand; /* room for the widest layer's inputs */
    float *final;    /* [rows, hidden_size], after the last norm */
    int64_t num_taps;
    const int32_t *tap_layers; /* in ascending order */
    float *taps;               /* [num_taps, rows, hidden_size]: hidden states behind these layers */
    float *queries;            /* [num_layers, rows, num_heads, head_dim] after rotation; or NULL */
} Buffers;

#endif
