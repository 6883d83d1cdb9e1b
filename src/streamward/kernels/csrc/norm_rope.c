/* RMSNorm, rotary embeddings (Su et al., arXiv 2104.09864), and storing keys and values. */
#include "norm_rope.h"

#include <math.h>

#define SMALLEST_SCALE 0x1p-60f /* of 8 bits: smaller values become 0 */
#define FEW_ROWS 32 /* tokens that probably lie side by side: two threads that store them would wait for each other */
#define NORM_CHUNK 2 /* rows that cost less than to share them */
#define ROTATE_CHUNK 4

INLINE float inverse_rms(const float *x, int64_t size, float eps) {
    vf sum = vf_zero();
    for (int64_t i = 0; i < size; i += LANES) {
        const vf lanes = vf_load(x + i);
        sum = vf_fma(lanes, lanes, sum);
    }
    return 1.0f / sqrtf(vf_reduce_add(sum) / (float)size + eps);
}

typedef struct {
    const Linear *reader;
    const float *x, *weight;
    float eps;
    const Operand *operand;
    float *out;
    int64_t rows, size;
    int adds;
} NormPhase;

static void norm_pack_items(const void *context, int64_t begin, int64_t end) {
    const NormPhase *p = (const NormPhase *)context;
    const int kind = operand_kind(p->reader);
    for (int64_t row = begin; row < end; row++) {
        const float *from = p->x + row * p->size;
        const vf factor = vf_set1(inverse_rms(from, p->size, p->eps));
        for (int64_t group = 0; group < p->size / GROUP; group++) {
            vf lanes[GROUP_LANES];
            UNROLL for (int i = 0; i < GROUP_LANES; i++) {
                const int64_t at = group * GROUP + i * LANES;
                lanes[i] = vf_mul(vf_mul(vf_load(from + at), factor), vf_load(p->weight + at));
            }
            pack_group(kind, p->operand, p->rows, row, group, lanes);
        }
    }
}

/* Pack RMSNorm(x) * weight for the layer that reads it. x [rows, inputs]. */
static void norm_pack(const Linear *reader, const float *x, const float *weight, float eps, const Operand *out,
                      int64_t rows) {
    const NormPhase phase = {
        .reader = reader, .x = x, .weight = weight, .eps = eps, .operand = out, .rows = rows, .size = reader->num_inputs};
    streamward_parallel_for(norm_pack_items, &phase, rows, NORM_CHUNK, CONTIGUOUS);
}

static void norm_items(const void *context, int64_t begin, int64_t end) {
    const NormPhase *p = (const NormPhase *)context;
    for (int64_t row = begin; row < end; row++) {
        const float *from = p->x + row * p->size;
        float *to = p->out + row * p->size;
        const vf factor = vf_set1(inverse_rms(from, p->size, p->eps));
        for (int64_t i = 0; i < p->size; i += LANES) {
            const vf lanes = vf_mul(vf_mul(vf_load(from + i), factor), vf_load(p->weight + i));
            vf_store(to + i, p->adds ? vf_add(vf_load(to + i), lanes) : lanes);
        }
    }
}

/* out = RMSNorm(x) * weight, or out += that; [rows, size] both. */
static void norm_rows(const float *x, const float *weight, float eps, float *out, int64_t rows, int64_t size, int adds) {
    const NormPhase phase = {.x = x, .weight = weight, .eps = eps, .out = out, .rows = rows, .size = size, .adds = adds};
    streamward_parallel_for(norm_items, &phase, rows, NORM_CHUNK, CONTIGUOUS);
}

/* RMSNorm one head (unless weight is NULL) and rotate its halves by the angles of its position. */
INLINE void rotate_head(const float *x, const float *weight, const float *cosines, const float *sines, float *out,
                        int64_t size, float eps) {
    const vf factor = vf_set1(weight ? inverse_rms(x, size, eps) : 1.0f);
    const int64_t half = size / 2;
    for (int64_t i = 0; i < half; i += LANES) {
        vf left = vf_load(x + i), right = vf_load(x + half + i);
        if (weight) {
            left = vf_mul(vf_mul(left, factor), vf_load(weight + i));
            right = vf_mul(vf_mul(right, factor), vf_load(weight + half + i));
        }
        const vf c = vf_load(cosines + i), s = vf_load(sines + i);
        vf_store(out + i, vf_fms(left, c, vf_mul(right, s)));
        vf_store(out + half + i, vf_fma(right, c, vf_mul(left, s)));
    }
}

INLINE void round_bf16(const float *x, bf16 *out, int64_t size) {
    for (int64_t i = 0; i < size; i += LANES) vf_store_bf16(out + i, vf_load(x + i));
}

/* Turn values into integers within +-127 of one scale > 0, which is NaN if any of them is not finite. */
INLINE void round_int8(const float *x, int8_t *out, bf16 *scale, int64_t size) {
    vi largest = vi_zero();
    for (int64_t i = 0; i < size; i += LANES) largest = vi_max(largest, magnitude_bits(vf_load(x + i)));
    const float step = float_of_bits((uint32_t)vi_reduce_max(largest)) / 127.0f;
    bf16 rounded[LANES];
    vf_store_bf16(rounded, vf_max(vf_set1(SMALLEST_SCALE), vf_set1(step)));
    if ((rounded[0] & 0x7f80) == 0x7f80) rounded[0] = BF16_NAN;
    *scale = rounded[0];
    const vf factor = vf_set1(1.0f / float_of_bits((uint32_t)rounded[0] << 16));
    for (int64_t i = 0; i < size; i += LANES)
        vi_store_bytes(out + i, round_within_127(vf_mul(vf_load(x + i), factor)));
}

/* Put a key's values, four bytes each time, where they are multiplied with. */
INLINE void store_fours(const void *key, uint8_t *to, int64_t token, int64_t count) {
    for (int64_t i = 0; i < count; i++) memcpy(to + (i * CACHE_BLOCK + token) * 4, (const uint8_t *)key + i * 4, 4);
}

/* Store a key, and its value beside those of the token before or behind it, which another thread may be storing. */
static void store_bf16_head(const float *key, const float *value, const CacheBlock *block, int64_t token, int64_t d) {
    bf16 rounded[MAX_HEAD_DIM];
    round_bf16(key, rounded, d);
    store_fours(rounded, block->keys, token, d / 2);
    round_bf16(value, rounded, d);
    bf16 *values = (bf16 *)(void *)block->values + token / 2 * d * 2 + token % 2;
    for (int64_t i = 0; i < d; i++) values[i * 2] = rounded[i];
}

/* The same with 8 bits, where four values lie together; the key is spoilt. */
static void store_int8_head(float *key, const float *value, const float *direction, const CacheBlock *block,
                            int64_t token, int64_t d) {
    int8_t rounded[MAX_HEAD_DIM];
    float transformed[MAX_HEAD_DIM];
    hadamard_groups(key, d, 1.0f);
    block->projections[token] = project_out(key, direction, d);
    for (int64_t part = 0; part < d / PART; part++)
        round_int8(key + part * PART, rounded + part * PART, block->key_scales + part * CACHE_BLOCK + token, PART);
    if (WEIGHT_ZERO)
        for (int64_t i = 0; i < d; i++) rounded[i] = (int8_t)(rounded[i] ^ WEIGHT_ZERO);
    store_fours(rounded, block->keys, token, d / 4);
    memcpy(transformed, value, (size_t)d * sizeof(float));
    hadamard_groups(transformed, d, 1.0f);
    round_int8(transformed, rounded, block->value_scales + token, d);
    if (block->value_scales[token] == BF16_NAN) block->key_scales[token] = BF16_NAN; /* it must show */
    uint8_t *values = block->values + token / 4 * d * 4 + token % 4;
    for (int64_t i = 0; i < d; i++) values[i * 4] = (uint8_t)rounded[i];
}

/* Ask for the memory that keys and values will be stored in. */
INLINE void prefetch_block(const CacheBlock *block, const CacheShape *shape) {
    const int64_t bytes = CACHE_BLOCK * shape->head_dim * (shape->is_int8 ? 1 : 2);
    for (int64_t at = 0; at < bytes; at += 64) {
        prefetch_near(block->keys + at);
        prefetch_near(block->values + at);
    }
}

typedef struct {
    const Decoder *decoder;
    const Layer *layer;
    const Step *step;
    const float *qkv;
    float *q;
} RotatePhase;

static void rotate_store_items(const void *context, int64_t begin, int64_t end) {
    const RotatePhase *p = (const RotatePhase *)context;
    const Layer *layer = p->layer;
    const CacheShape *shape = &p->decoder->cache;
    const float eps = p->decoder->eps;
    const int64_t rows = p->step->num_rows, d = shape->head_dim;
    const int64_t num_q = p->decoder->num_heads, num_kv = shape->num_kv_heads, group = num_q / num_kv;
    const int by_heads = rows <= FEW_ROWS;
    for (int64_t i = begin; i < end; i++) { /* a key head, and the query heads that share it */
        const int64_t row = by_heads ? i % rows : i / num_kv, kv_head = by_heads ? i / rows : i % num_kv;
        const int64_t position = p->step->positions[row], slot = p->step->slots[row];
        const float *x = p->qkv + row * (num_q + 2 * num_kv) * d;
        const float *key = x + (num_q + kv_head) * d, *value = key + num_kv * d;
        const float *cosines = layer->cosines + position * (d / 2), *sines = layer->sines + position * (d / 2);
        const CacheBlock block = find_block(shape, layer->cache, kv_head, slot);
        const int64_t token = slot % CACHE_BLOCK;
        float rotated[MAX_HEAD_DIM];
        prefetch_block(&block, shape);
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
            rotate_head(x + head * d, layer->q_norm, cosines, sines, p->q + (row * num_q + head) * d, d, eps);
        rotate_head(key, layer->k_norm, cosines, sines, rotated, d, eps);
        if (!shape->is_int8) {
            store_bf16_head(rotated, value, &block, token, d);
            continue;
        }
        const float *mean = layer->mean_key + kv_head * d;
        for (int64_t j = 0; j < d; j += LANES) vf_store(rotated + j, vf_sub(vf_load(rotated + j), vf_load(mean + j)));
        store_int8_head(rotated, value, layer->outlier_direction + kv_head * d, &block, token, d);
    }
}

/*
 * Norm and rotate queries and keys; queries go to q [rows, H, d], keys and values to their slots of the cache, of 8 bits
 * without the mean key.
 */
static void rotate_store(const Decoder *decoder, const Layer *layer, const Step *step, const float *qkv, float *q) {
    const RotatePhase phase = {decoder, layer, step, qkv, q};
    const int64_t count = step->num_rows * decoder->cache.num_kv_heads;
    streamward_parallel_for(rotate_store_items, &phase, count, ROTATE_CHUNK, CONTIGUOUS);
}
