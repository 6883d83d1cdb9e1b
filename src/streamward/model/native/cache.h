/*
 * The cache of keys and values. A page holds `page_tokens` tokens of one stream, for all layers; in each layer, for each
 * key head, keys and then values lie by strips of 16 tokens, in the order in which pairs are multiplied:
 *
 *     keys [page_tokens / 16, d / 2, 16, 2]    pairs of a key's values
 *     values [page_tokens / 16, 8, d, 2]       pairs of successive tokens
 *
 * They are bfloat16, or have 8 bits: then queries, keys and values are rotated before, like activations (linear.h),
 * fours take the place of pairs, and three tables follow. What lies along one direction of the head, in which queries
 * are large, is taken out of keys and queries before they are rounded, and kept as it is:
 *
 *     keys [page_tokens / 16, d / 4, 16, 4]    unsigned: 128 stands for 0
 *     values [page_tokens / 16, 4, d, 4]
 *     along [page_tokens]                      float32
 *     scales of keys [page_tokens / 16, d / 32, 16], of values [page_tokens], bfloat16
 */
#ifndef STREAMWARD_CACHE_H
#define STREAMWARD_CACHE_H

#include "lanes.h"

#define STRIP 16         /* tokens that lie side by side */
#define PART 32          /* values of a key with one scale */
#define MAX_HEAD_DIM 256

typedef struct {
    long num_kv_heads, head_dim, page_tokens;
    long page_bytes; /* from a page to the next */
    long is_int8;
} CacheShape;

/* Where one strip of a key head is. */
typedef struct {
    uint8_t *keys, *values;
    float *along; /* of 8 bits, as are the rest */
    bf16 *key_scales, *value_scales;
} Strip;

/* The strip that a slot lies in; slot = page * page_tokens + offset. */
INLINE Strip find_strip(const CacheShape *shape, uint8_t *cache, long kv_head, long slot) {
    const long d = shape->head_dim, tokens = shape->page_tokens, part = d * (shape->is_int8 ? 1 : 2); /* bytes of a key */
    const long head_bytes = tokens * 2 * part + (shape->is_int8 ? tokens * (4 + 2 * (d / PART + 1)) : 0);
    const long first = slot % tokens / STRIP * STRIP;
    uint8_t *head = cache + slot / tokens * shape->page_bytes + kv_head * head_bytes;
    float *along = (float *)(head + tokens * 2 * part);
    bf16 *scales = (bf16 *)(along + tokens);
    return (Strip){
        .keys = head + first * part,
        .values = head + (tokens + first) * part,
        .along = along + first,
        .key_scales = scales + first * (d / PART),
        .value_scales = scales + tokens * (d / PART) + first,
    };
}

/* Take out of a rotated query or key what lies along a direction of length 1; return how much that is. */
INLINE float take_out(float *x, const float *direction, long d) {
    __m512 sum = _mm512_setzero_ps();
    for (long i = 0; i < d; i += LANES)
        sum = _mm512_fmadd_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(direction + i), sum);
    const float along = _mm512_reduce_add_ps(sum);
    for (long i = 0; i < d; i += LANES) {
        const __m512 part = _mm512_mul_ps(_mm512_set1_ps(along), _mm512_loadu_ps(direction + i));
        _mm512_storeu_ps(x + i, _mm512_sub_ps(_mm512_loadu_ps(x + i), part));
    }
    return along;
}

#endif
