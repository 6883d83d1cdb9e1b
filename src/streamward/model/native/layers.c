/* The parts of a decoder layer between its linear layers. Inside a parallel region its threads share the work. */
#if defined(__x86_64__)

#include "layers.h"

#include <math.h>

#define FEW_ROWS 32 /* tokens that probably lie side by side: two threads that store them would wait for each other */
#define SMALLEST_SCALE 0x1p-60f /* of 8 bits: smaller values become 0 */

/* Changes with the structures that the caller fills in and with the order in the cache: `_VERSION` in library.py. */
long streamward_version(void) { return 6; }

/* Whether this CPU has the instructions. */
int streamward_is_supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}

INLINE __m512 inverse_rms(const float *x, long size, float eps) {
    __m512 sum = _mm512_setzero_ps();
    for (long i = 0; i < size; i += LANES) {
        const __m512 lanes = _mm512_loadu_ps(x + i);
        sum = _mm512_fmadd_ps(lanes, lanes, sum);
    }
    return _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(sum) / (float)size + eps));
}

/* Pack RMSNorm(x) * weight for the layer that reads it. x [rows, inputs]. */
void streamward_norm_pack(const Linear *reader, const float *x, const bf16 *weight, float eps, const Operand *out,
                          long rows) {
    const long size = reader->num_inputs;
#pragma omp for schedule(static)
    for (long row = 0; row < rows; row++) {
        const float *from = x + row * size;
        const __m512 factor = inverse_rms(from, size, eps);
        for (long group = 0; group < size / GROUP; group++) {
            __m512 lanes[GROUP_LANES];
            for (int i = 0; i < GROUP_LANES; i++) {
                const long at = group * GROUP + i * LANES;
                lanes[i] = _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(from + at), factor), load_bf16(weight + at));
            }
            put_group(reader, out, rows, row, group, lanes);
        }
    }
}

/* out = RMSNorm(x) * weight, [rows, size] both. */
void streamward_norm(const float *x, const bf16 *weight, float eps, bf16 *out, long rows, long size) {
#pragma omp for schedule(static)
    for (long row = 0; row < rows; row++) {
        const __m512 factor = inverse_rms(x + row * size, size, eps);
        for (long i = 0; i < size; i += LANES) {
            const __m512 lanes = _mm512_mul_ps(_mm512_loadu_ps(x + row * size + i), factor);
            store_bf16(out + row * size + i, _mm512_mul_ps(lanes, load_bf16(weight + i)));
        }
    }
}

/* RMSNorm one head (unless weight is NULL) and rotate its halves by the angles of its position. */
INLINE void rotate_head(const float *x, const bf16 *weight, const float *cosines, const float *sines, float *out,
                        long size, float eps) {
    const __m512 factor = weight ? inverse_rms(x, size, eps) : _mm512_set1_ps(1.0f);
    const long half = size / 2;
    for (long i = 0; i < half; i += LANES) {
        __m512 left = _mm512_loadu_ps(x + i), right = _mm512_loadu_ps(x + half + i);
        if (weight) {
            left = _mm512_mul_ps(_mm512_mul_ps(left, factor), load_bf16(weight + i));
            right = _mm512_mul_ps(_mm512_mul_ps(right, factor), load_bf16(weight + half + i));
        }
        const __m512 c = _mm512_loadu_ps(cosines + i), s = _mm512_loadu_ps(sines + i);
        _mm512_storeu_ps(out + i, _mm512_fmsub_ps(left, c, _mm512_mul_ps(right, s)));
        _mm512_storeu_ps(out + half + i, _mm512_fmadd_ps(right, c, _mm512_mul_ps(left, s)));
    }
}

/* Multiply each group of 64 by the Hadamard matrix, and by a factor. */
INLINE void rotate_groups(float *x, long size, float factor) {
    for (long at = 0; at < size; at += GROUP) {
        __m512 lanes[GROUP_LANES];
        for (int i = 0; i < GROUP_LANES; i++) lanes[i] = _mm512_loadu_ps(x + at + i * LANES);
        rotate_group(lanes);
        for (int i = 0; i < GROUP_LANES; i++)
            _mm512_storeu_ps(x + at + i * LANES, _mm512_mul_ps(lanes[i], _mm512_set1_ps(factor)));
    }
}

INLINE void subtract(float *x, const float *what, long size) {
    for (long i = 0; i < size; i += LANES)
        _mm512_storeu_ps(x + i, _mm512_sub_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(what + i)));
}

INLINE void round_bf16(const float *x, bf16 *out, long size) {
    for (long i = 0; i < size; i += LANES) store_bf16(out + i, _mm512_loadu_ps(x + i));
}

/* Turn values into whole numbers from -128 to 127 of one scale > 0, which is not finite if any of them is not. */
INLINE void round_int8(const float *x, int8_t *out, bf16 *scale, long size) {
    __m512i largest = _mm512_setzero_si512();
    for (long i = 0; i < size; i += LANES) largest = _mm512_max_epu32(largest, magnitude_bits(_mm512_loadu_ps(x + i)));
    const float step = float_of_bits(_mm512_reduce_max_epu32(largest)) / 127.0f;
    bf16 rounded[LANES];
    store_bf16(rounded, _mm512_max_ps(_mm512_set1_ps(SMALLEST_SCALE), _mm512_set1_ps(step)));
    *scale = rounded[0];
    const float stored = float_of_bits((uint32_t)rounded[0] << 16);
    const __m512 factor = _mm512_set1_ps(1.0f / stored);
    for (long i = 0; i < size; i += LANES) {
        const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), factor));
        _mm_storeu_si128((__m128i *)(out + i), _mm512_cvtsepi32_epi8(whole));
    }
}

INLINE int is_finite(bf16 x) { return (x & 0x7f80) != 0x7f80; }

/* Put a key's values, four bytes each time, where they are multiplied with. */
INLINE void store_fours(const void *key, uint8_t *to, long token, long count) {
    for (long i = 0; i < count; i++) memcpy(to + (i * STRIP + token) * 4, (const uint8_t *)key + i * 4, 4);
}

/* Store a key, and its value beside those of the token before or behind it, which another thread may be storing. */
static void store_bf16_head(float *key, const float *value, const Strip *strip, long token, long d) {
    bf16 rounded[MAX_HEAD_DIM];
    round_bf16(key, rounded, d);
    store_fours(rounded, strip->keys, token, d / 2);
    round_bf16(value, rounded, d);
    uint8_t *values = strip->values + token / 2 * d * 4;
    for (long i = 0; i < d; i += LANES) {
        __m512i lanes = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(rounded + i)));
        if (token % 2) lanes = _mm512_slli_epi32(lanes, 16);
        _mm512_mask_storeu_epi16(values + i * 4, token % 2 ? 0xaaaaaaaa : 0x55555555, lanes);
    }
}

/* The same with 8 bits, where four values lie together; the key is spoilt. */
static void store_int8_head(float *key, const float *value, const float *direction, const Strip *strip, long token,
                            long d) {
    int8_t rounded[MAX_HEAD_DIM];
    float rotated[MAX_HEAD_DIM];
    rotate_groups(key, d, 1.0f);
    strip->along[token] = take_out(key, direction, d);
    for (long part = 0; part < d / PART; part++)
        round_int8(key + part * PART, rounded + part * PART, strip->key_scales + part * STRIP + token, PART);
    for (long i = 0; i < d; i++) rounded[i] ^= ZERO;
    store_fours(rounded, strip->keys, token, d / 4);
    memcpy(rotated, value, d * sizeof(float));
    rotate_groups(rotated, d, 1.0f);
    round_int8(rotated, rounded, strip->value_scales + token, d);
    if (!is_finite(strip->value_scales[token])) strip->key_scales[token] = strip->value_scales[token]; /* it must show */
    const int place = token % 4;
    uint8_t *values = strip->values + token / 4 * d * 4;
    for (long i = 0; i < d; i += LANES) {
        const __m512i lanes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(rounded + i)));
        const __m512i there = _mm512_sll_epi32(lanes, _mm_cvtsi32_si128(8 * place));
        _mm512_mask_storeu_epi8(values + i * 4, 0x1111111111111111ull << place, there);
    }
}

/* Ask for the memory that keys and values will be stored in. */
INLINE void ask_for_strip(Strip strip, const CacheShape *shape) {
    const long bytes = STRIP * shape->head_dim * (shape->is_int8 ? 1 : 2);
    for (long at = 0; at < bytes; at += 64) {
        _mm_prefetch((const char *)strip.keys + at, _MM_HINT_T0);
        _mm_prefetch((const char *)strip.values + at, _MM_HINT_T0);
    }
}

/*
 * Norm and rotate queries and keys; queries go to q [rows, H, d], keys and values to their slots of the cache, without
 * what keys usually are if that is given.
 */
void streamward_rotate_store(const RotatePlan *plan, const float *qkv, const bf16 *q_weight, const bf16 *k_weight,
                             const float *usual_keys, const float *directions, bf16 *q, uint8_t *cache, long rows) {
    const CacheShape *shape = &plan->cache;
    const long d = shape->head_dim, num_q = plan->num_heads, num_kv = shape->num_kv_heads;
    const int by_heads = rows <= FEW_ROWS;
#pragma omp for schedule(static)
    for (long i = 0; i < rows * num_kv; i++) { /* a key head, and the query heads that share it */
        const long row = by_heads ? i % rows : i / num_kv, kv_head = by_heads ? i / rows : i % num_kv;
        const long group = num_q / num_kv;
        const float *x = qkv + row * (num_q + 2 * num_kv) * d;
        const float *key = x + (num_q + kv_head) * d, *value = key + num_kv * d;
        const float *cosines = plan->cosines + plan->positions[row] * (d / 2);
        const float *sines = plan->sines + plan->positions[row] * (d / 2);
        const Strip strip = find_strip(shape, cache, kv_head, plan->slots[row]);
        float head_values[MAX_HEAD_DIM];
        ask_for_strip(strip, shape);
        for (long head = kv_head * group; head < (kv_head + 1) * group; head++) {
            rotate_head(x + head * d, q_weight, cosines, sines, head_values, d, plan->eps);
            if (shape->is_int8) rotate_groups(head_values, d, 1.0f / GROUP); /* keys are GROUP times too large */
            round_bf16(head_values, q + (row * num_q + head) * d, d);
        }
        rotate_head(key, k_weight, cosines, sines, head_values, d, plan->eps);
        if (usual_keys) subtract(head_values, usual_keys + kv_head * d, d);
        const long token = plan->slots[row] % STRIP;
        if (shape->is_int8) store_int8_head(head_values, value, directions + kv_head * d, &strip, token, d);
        else store_bf16_head(head_values, value, &strip, token, d);
    }
}

#endif
