/*
 * The cache of keys and values. A page holds `page_tokens` tokens of one stream, for all layers; in each layer, for each
 * key head, keys and then values lie by strips of 16 tokens, in the order in which pairs are multiplied:
 *
 *     keys [page_tokens / 16, d / 2, 16, 2]    pairs of a key's values
 *     values [page_tokens / 16, 8, d, 2]       pairs of successive tokens
 *
 * They are bfloat16, or have 8 bits. Then queries, keys and values are rotated before, like activations (linear.h), and
 * two tables of bfloat16 follow:
 *
 *     scales of keys [page_tokens / 16, d / 32, 16], of values [page_tokens]
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
    bf16 *key_scales, *value_scales; /* of 8 bits */
} Strip;

/* The strip that a slot lies in; slot = page * page_tokens + offset. */
INLINE Strip find_strip(const CacheShape *shape, uint8_t *cache, long kv_head, long slot) {
    const long d = shape->head_dim, tokens = shape->page_tokens, part = d * (shape->is_int8 ? 1 : 2); /* bytes of a key */
    const long head_bytes = tokens * 2 * part + (shape->is_int8 ? tokens * 2 * (d / PART + 1) : 0);
    const long first = slot % tokens / STRIP * STRIP;
    uint8_t *head = cache + slot / tokens * shape->page_bytes + kv_head * head_bytes;
    bf16 *scales = (bf16 *)(head + tokens * 2 * part);
    return (Strip){
        .keys = head + first * part,
        .values = head + (tokens + first) * part,
        .key_scales = scales + first * (d / PART),
        .value_scales = scales + tokens * (d / PART) + first,
    };
}

#endif
