/*
 * The cache of keys and values. A page holds `page_tokens` tokens of one stream, for all layers; in each layer, for each
 * key head, keys and then values lie by blocks of 16 tokens, in the order in which pairs are multiplied:
 *
 *     keys [page_tokens / 16, d / 2, 16, 2]    pairs of a key's values
 *     values [page_tokens / 16, 8, d, 2]       pairs of successive tokens
 *
 * They are bfloat16, or have 8 bits: then queries, keys and values are multiplied by the Hadamard matrix before, like
 * activations (linear.h), fours take the place of pairs, and three tables follow. The projection of a key on one direction
 * of the head, in which queries are large, is taken out of keys and queries before they are rounded, and kept as it is:
 *
 *     keys [page_tokens / 16, d / 4, 16, 4]    WEIGHT_ZERO added to each
 *     values [page_tokens / 16, 4, d, 4]
 *     projections [page_tokens]                float32
 *     scales of keys [page_tokens / 16, d / 32, 16], of values [page_tokens], bfloat16
 */
#ifndef STREAMWARD_CACHE_H
#define STREAMWARD_CACHE_H

#include "simd.h"

#define CACHE_BLOCK 16 /* tokens that lie side by side */
#define PART 32        /* values of a key with one scale */
#define MAX_HEAD_DIM 256
#define BF16_NAN 0x7fc0

/* Where one block of a key head is. */
typedef struct {
    uint8_t *keys, *values;
    float *projections; /* of 8 bits, as are the rest */
    bf16 *key_scales, *value_scales;
} CacheBlock;

/* The block that a slot lies in; slot = page * page_tokens + offset. */
INLINE CacheBlock find_block(const CacheShape *shape, uint8_t *cache, int64_t kv_head, int64_t slot) {
    const int64_t d = shape->head_dim, tokens = shape->page_tokens;
    const int64_t key_bytes = d * (shape->is_int8 ? 1 : 2);
    const int64_t table_bytes = shape->is_int8 ? tokens * (4 + 2 * (d / PART + 1)) : 0;
    const int64_t head_bytes = tokens * 2 * key_bytes + table_bytes;
    const int64_t first = slot % tokens / CACHE_BLOCK * CACHE_BLOCK;
    uint8_t *head = cache + slot / tokens * shape->page_bytes + kv_head * head_bytes;
    CacheBlock block = {.keys = head + first * key_bytes, .values = head + (tokens + first) * key_bytes};
    if (shape->is_int8) {
        float *projections = (float *)(void *)(head + tokens * 2 * key_bytes);
        bf16 *scales = (bf16 *)(void *)(projections + tokens);
        block.projections = projections + first;
        block.key_scales = scales + first * (d / PART);
        block.value_scales = scales + tokens * (d / PART) + first;
    }
    return block;
}

/* Take the projection on a direction of length 1 out of a query or key; return it. */
INLINE float project_out(float *x, const float *direction, int64_t d) {
    vf sum = vf_zero();
    for (int64_t i = 0; i < d; i += LANES) sum = vf_fma(vf_load(x + i), vf_load(direction + i), sum);
    const float projection = vf_reduce_add(sum);
    for (int64_t i = 0; i < d; i += LANES)
        vf_store(x + i, vf_sub(vf_load(x + i), vf_mul(vf_set1(projection), vf_load(direction + i))));
    return projection;
}

#endif
