/*
 * Causal attention of new tokens over a paged cache, for many streams of any length in one call.
 *
 * Online softmax over tiles of 64 keys (Milakov and Gimelshein, arXiv 1805.02867). Query heads that share a key head
 * are rows of one small product, which reads the cache as it is stored; see layers.h. Sums are float32 and do not depend
 * on what else is in the batch.
 */
#if defined(__x86_64__)

#include "layers.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#define TILE 64             /* keys taken together */
#define STRIPS (TILE / STRIP)
#define MAX_ROWS 64         /* query rows of one item */
#define ROWS 12             /* query rows computed together */
#define PADDED_ROWS 72      /* the next multiple */
#define WIDTH 2             /* registers for each of those rows */

typedef struct {
    int32_t queries[PADDED_ROWS / ROWS][MAX_HEAD_DIM / 2][ROWS]; /* pairs of a query's values, of rows computed together */
    int16_t weights[PADDED_ROWS][TILE];                          /* or bfloat16 */
    float sums[PADDED_ROWS][MAX_HEAD_DIM];
    float scale[PADDED_ROWS];   /* what a row's products are multiplied with: scores are then powers of two */
    float unit[PADDED_ROWS];    /* what a weight of 1 stands for */
    float decay[PADDED_ROWS], top[PADDED_ROWS];
    float totals[PADDED_ROWS][LANES]; /* of the weights, in parts */
    int32_t limits[PADDED_ROWS]; /* keys each row sees */
} Work;

/* Successive strips of one key head, up to 64 keys. */
typedef struct {
    Strip strips[STRIPS];
    long count;
} Tile;

INLINE __m512i load_pairs(const uint8_t *source) { return _mm512_loadu_si512(source); }

INLINE __m512i widen_pairs(const uint8_t *source) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)source));
}

INLINE void ask_for(const void *source) { _mm_prefetch((const char *)source, _MM_HINT_T1); }

INLINE __m512i pair_everywhere(const void *source) {
    int32_t pair;
    memcpy(&pair, source, sizeof(pair));
    return _mm512_set1_epi32(pair);
}

/* Products of a few rows with a tile's keys, while the first rows ask for the next tile's. */
INLINE void score_bf16(const int rows, const int is_first, const int32_t (*queries)[ROWS], const Tile *tile,
                       const Tile *next, long d, float scores[][TILE]) {
    for (int strip = 0; strip * STRIP < tile->count; strip += WIDTH) {
        __m512 sums[ROWS][WIDTH];
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < WIDTH; i++) sums[r][i] = _mm512_setzero_ps();
        for (long at = 0; at < d / 2; at++) {
            __m512i k[WIDTH];
            UNROLL for (int i = 0; i < WIDTH; i++) {
                k[i] = load_pairs(tile->strips[strip + i].keys + at * STRIP * 4);
                if (is_first) ask_for(next->strips[strip + i].keys + at * STRIP * 4);
            }
            UNROLL for (int r = 0; r < rows; r++) {
                const __m512i q = pair_everywhere(queries[at] + r);
                UNROLL for (int i = 0; i < WIDTH; i++) sums[r][i] = add_products_bf16(sums[r][i], k[i], q);
            }
        }
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < WIDTH; i++) _mm512_storeu_ps(scores[r] + (strip + i) * LANES, sums[r][i]);
    }
}

/* The same for keys of 8 bits: products of whole numbers are exact until a part of the head is scaled. */
INLINE void score_int8(const int rows, const int is_first, const int32_t (*queries)[ROWS], const Tile *tile,
                       const Tile *next, long d, float scores[][TILE]) {
    for (int strip = 0; strip * STRIP < tile->count; strip++) {
        const uint8_t *keys = tile->strips[strip].keys;
        __m512 sums[ROWS];
        UNROLL for (int r = 0; r < rows; r++) sums[r] = _mm512_setzero_ps();
        if (is_first) {
            for (long at = 0; at < d / PART; at += 2) ask_for(next->strips[strip].key_scales + at * STRIP);
            ask_for(next->strips[strip].value_scales);
        }
        for (long part = 0; part < d / PART; part++) {
            __m512i acc[ROWS];
            UNROLL for (int r = 0; r < rows; r++) acc[r] = _mm512_setzero_si512();
            for (long at = part * PART / 2; at < (part + 1) * PART / 2; at++) {
                const __m512i k = widen_pairs(keys + at * STRIP * 2);
                if (is_first && at % 2) ask_for(next->strips[strip].keys + at * STRIP * 2);
                UNROLL for (int r = 0; r < rows; r++) acc[r] = add_products_int16_with(acc[r], k, queries[at] + r);
            }
            const __m512 scale = load_bf16(tile->strips[strip].key_scales + part * STRIP);
            UNROLL for (int r = 0; r < rows; r++) sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r]), scale, sums[r]);
        }
        UNROLL for (int r = 0; r < rows; r++) _mm512_storeu_ps(scores[r] + strip * LANES, sums[r]);
    }
}

/* Which of sixteen keys a row sees. */
INLINE __mmask16 seen_keys(const int sees_all, const Work *work, int row, long first_key) {
    if (sees_all) return 0xffff;
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_cmplt_epi32_mask(lanes, _mm512_set1_epi32(work->limits[row] - (int32_t)first_key));
}

/* Return a row's largest score so far, scaled. */
INLINE float highest_score(const int sees_all, const Work *work, int row, const float *scores, long first_key) {
    __m512 top = _mm512_set1_ps(-INFINITY);
    for (int i = 0; i < STRIPS; i++) {
        const __mmask16 seen = seen_keys(sees_all, work, row, first_key + i * LANES);
        top = _mm512_mask_max_ps(top, seen, top, _mm512_loadu_ps(scores + i * LANES));
    }
    const float highest = _mm512_reduce_max_ps(top) * work->scale[row];
    return work->top[row] > highest ? work->top[row] : highest; /* no number if the score is none */
}

/* The weight of each key relative to the one with the largest score; 0 where it is not seen. */
INLINE __m512 weights_of(const int sees_all, const Work *work, int row, const float *scores, long first_key) {
    const __m512 scale = _mm512_set1_ps(work->scale[row]), top = _mm512_set1_ps(work->top[row]);
    const __m512 power = _mm512_fmsub_ps(_mm512_loadu_ps(scores), scale, top);
    return _mm512_maskz_mov_ps(seen_keys(sees_all, work, row, first_key), exp2_roughly(power));
}

/* Turn a row's scores into weights, and return sixteen sums of them. */
INLINE __m512 weigh_bf16(const int sees_all, Work *work, int row, const float *scores, long first_key) {
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < STRIPS; i++) {
        const __m512 weight = weights_of(sees_all, work, row, scores + i * LANES, first_key + i * LANES);
        sum = _mm512_add_ps(sum, weight);
        store_bf16((bf16 *)work->weights[row] + i * LANES, weight);
    }
    return sum;
}

/* The same with whole numbers of 16 bits, which take in the scales of the values. */
INLINE __m512 weigh_int8(const int sees_all, Work *work, int row, const float *scores, long first_key, const Tile *tile) {
    __m512 sum = _mm512_setzero_ps(), largest = sum, scaled[STRIPS];
    for (int i = 0; i < STRIPS; i++) {
        const __m512 weight = weights_of(sees_all, work, row, scores + i * LANES, first_key + i * LANES);
        const __mmask16 seen = seen_keys(sees_all, work, row, first_key + i * LANES);
        scaled[i] = _mm512_maskz_mul_ps(seen, weight, load_bf16(tile->strips[i].value_scales));
        sum = _mm512_add_ps(sum, weight);
        largest = _mm512_max_ps(largest, scaled[i]);
    }
    const float top = _mm512_reduce_max_ps(largest);
    const __m512 factor = _mm512_set1_ps(top > 0.0f ? 32767.0f / top : 0.0f);
    for (int i = 0; i < STRIPS; i++) {
        const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(scaled[i], factor));
        _mm256_storeu_si256((__m256i *)(work->weights[row] + i * LANES), _mm512_cvtsepi32_epi16(whole));
    }
    work->unit[row] = top / 32767.0f;
    return sum;
}

/* Turn the scores of a few rows into weights relative to each row's largest score so far. */
INLINE void weigh_rows(const int rows, const int is_int8, const int sees_all, Work *work, int first_row, float scores[][TILE],
                       long first_key, const Tile *tile) {
    float highest[LANES];
    for (int r = 0; r < rows; r++) highest[r] = highest_score(sees_all, work, first_row + r, scores[r], first_key);
    const __mmask16 used = (__mmask16)((1u << rows) - 1);
    const __m512 top = _mm512_maskz_loadu_ps(used, highest);
    const __m512 change = _mm512_sub_ps(_mm512_maskz_loadu_ps(used, work->top + first_row), top);
    _mm512_mask_storeu_ps(work->decay + first_row, used, exp2_lanes(change));
    _mm512_mask_storeu_ps(work->top + first_row, used, top);
    for (int r = 0; r < rows; r++) {
        const int row = first_row + r;
        const __m512 sum = is_int8 ? weigh_int8(sees_all, work, row, scores[r], first_key, tile)
                                   : weigh_bf16(sees_all, work, row, scores[r], first_key);
        const __m512 before = _mm512_mul_ps(_mm512_loadu_ps(work->totals[row]), _mm512_set1_ps(work->decay[row]));
        _mm512_storeu_ps(work->totals[row], _mm512_add_ps(before, sum));
    }
}

/* sums = sums * decay + weights * values, for a few rows and 32 values of the head. */
INLINE void add_values_bf16(const int rows, const int is_first, Work *work, int first_row, long offset,
                            const Tile *tile, const Tile *next, long d) {
    __m512 sums[ROWS][WIDTH];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < WIDTH; i++)
            sums[r][i] = _mm512_mul_ps(_mm512_loadu_ps(work->sums[first_row + r] + offset + i * LANES),
                                       _mm512_set1_ps(work->decay[first_row + r]));
    const int16_t *weights = work->weights[first_row];
    for (long key = 0; key < tile->count; key += 2) {
        const long strip = key / STRIP, at = key % STRIP * d * 2 + offset * 4;
        /* of an odd number the last key's partner is another stream's past: whatever it holds must not count */
        const __mmask32 known = key + 1 < tile->count ? 0xffffffff : 0x55555555;
        __m512i v[WIDTH];
        UNROLL for (int i = 0; i < WIDTH; i++) {
            v[i] = _mm512_maskz_loadu_epi16(known, tile->strips[strip].values + at + i * 64);
            if (is_first) ask_for(next->strips[strip].values + at + i * 64);
        }
        UNROLL for (int r = 0; r < rows; r++) {
            const __m512i weight = pair_everywhere(weights + r * TILE + key);
            UNROLL for (int i = 0; i < WIDTH; i++) sums[r][i] = add_products_bf16(sums[r][i], v[i], weight);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < WIDTH; i++)
            _mm512_storeu_ps(work->sums[first_row + r] + offset + i * LANES, sums[r][i]);
}

/* The same for values of 8 bits, whose sum over a tile is exact. */
INLINE void add_values_int8(const int rows, const int is_first, Work *work, int first_row, long offset,
                            const Tile *tile, const Tile *next, long d) {
    __m512i acc[ROWS][WIDTH];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < WIDTH; i++) acc[r][i] = _mm512_setzero_si512();
    const int16_t *weights = work->weights[first_row];
    for (long key = 0; key < tile->count; key += 2) {
        const long strip = key / STRIP, at = key % STRIP * d + offset * 2;
        __m512i v[WIDTH];
        UNROLL for (int i = 0; i < WIDTH; i++) v[i] = widen_pairs(tile->strips[strip].values + at + i * 32);
        if (is_first) ask_for(next->strips[strip].values + at);
        UNROLL for (int r = 0; r < rows; r++) {
            const __m512i weight = pair_everywhere(weights + r * TILE + key);
            UNROLL for (int i = 0; i < WIDTH; i++) acc[r][i] = add_products_int16(acc[r][i], v[i], weight);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        const __m512 decay = _mm512_set1_ps(work->decay[first_row + r]), unit = _mm512_set1_ps(work->unit[first_row + r]);
        UNROLL for (int i = 0; i < WIDTH; i++) {
            float *to = work->sums[first_row + r] + offset + i * LANES;
            const __m512 before = _mm512_mul_ps(_mm512_loadu_ps(to), decay);
            _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r][i]), unit, before));
        }
    }
}

INLINE void take_rows(const int rows, const int is_int8, const int is_first, Work *work, int row, const Tile *tile,
                      const Tile *next, long first_key, long d) {
    float scores[ROWS][TILE];
    if (is_int8) score_int8(rows, is_first, work->queries[row / ROWS], tile, next, d, scores);
    else score_bf16(rows, is_first, work->queries[row / ROWS], tile, next, d, scores);
    if (work->limits[row] - first_key >= TILE) weigh_rows(rows, is_int8, 1, work, row, scores, first_key, tile);
    else weigh_rows(rows, is_int8, 0, work, row, scores, first_key, tile);
    for (long offset = 0; offset < d; offset += WIDTH * LANES) {
        if (is_int8) add_values_int8(rows, is_first, work, row, offset, tile, next, d);
        else add_values_bf16(rows, is_first, work, row, offset, tile, next, d);
    }
}

/* How many rows are taken together when so many are left; past the last they are like the first, and not used. */
INLINE int together(int left) { return left <= 2 ? 2 : left <= 4 ? 4 : left <= 8 ? 8 : ROWS; }

/* Take one tile of keys into account for all rows. */
INLINE void take_tile(const int is_int8, Work *work, int num_rows, const Tile *tile, const Tile *next, long first_key,
                      long d) {
    for (int row = 0; row < num_rows; row += ROWS) {
        const int rows = together(num_rows - row);
        if (rows == 2) take_rows(2, is_int8, 1, work, row, tile, next, first_key, d);
        else if (rows == 4) take_rows(4, is_int8, 1, work, row, tile, next, first_key, d);
        else if (rows == 8) take_rows(8, is_int8, 1, work, row, tile, next, first_key, d);
        else if (row == 0) take_rows(ROWS, is_int8, 1, work, row, tile, next, first_key, d);
        else take_rows(ROWS, is_int8, 0, work, row, tile, next, first_key, d);
    }
}

/* Functions of their own: inlined together they are too much for the compiler's registers. */
static __attribute__((noinline)) void take_bf16_tile(Work *work, int num_rows, const Tile *tile, const Tile *next,
                                                     long first_key, long d) {
    take_tile(0, work, num_rows, tile, next, first_key, d);
}

static __attribute__((noinline)) void take_int8_tile(Work *work, int num_rows, const Tile *tile, const Tile *next,
                                                     long first_key, long d) {
    take_tile(1, work, num_rows, tile, next, first_key, d);
}

/* Divide by the weights' sum, and pack for the layer that reads it. */
INLINE void put_row(const Work *work, int row, const int is_int8, const Linear *reader, const Operand *out, long rows,
                    long at, long d) {
    const float factor = 1.0f / _mm512_reduce_add_ps(_mm512_loadu_ps(work->totals[row])) / (is_int8 ? GROUP : 1); /* rotated twice, they are GROUP times larger */
    const long width = reader->num_inputs;
    for (long i = 0; i < d; i += GROUP) {
        __m512 x[GROUP_LANES];
        for (int j = 0; j < GROUP_LANES; j++)
            x[j] = _mm512_mul_ps(_mm512_loadu_ps(work->sums[row] + i + j * LANES), _mm512_set1_ps(factor));
        if (is_int8) rotate_group(x);
        put_group(reader, out, rows, at / width, (at % width + i) / GROUP, x);
    }
}

/* The first of the query's values that a row of an item reads. */
INLINE long query_at(const AttendPlan *plan, const Item *item, long kv_head, int row) {
    const long group = plan->num_heads / plan->cache.num_kv_heads;
    return ((item->first_row + row / group) * plan->num_heads + kv_head * group + row % group) * plan->cache.head_dim;
}

/* Turn a query into whole numbers of 16 bits; return what 1 stands for. */
INLINE float widen_query(const bf16 *query, int16_t *out, long d) {
    __m512i largest = _mm512_setzero_si512();
    for (long i = 0; i < d; i += LANES) largest = _mm512_max_epu32(largest, magnitude_bits(load_bf16(query + i)));
    const float top = float_of_bits(_mm512_reduce_max_epu32(largest));
    const __m512 factor = _mm512_set1_ps(top > 0.0f ? 32767.0f / top : 0.0f);
    for (long i = 0; i < d; i += LANES) {
        const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(load_bf16(query + i), factor));
        _mm256_storeu_si256((__m256i *)(out + i), _mm512_cvtsepi32_epi16(whole));
    }
    return top == 0.0f ? 1.0f : top / 32767.0f;
}

static void start_rows(Work *work, const AttendPlan *plan, const Item *item, long kv_head, const bf16 *q, int num_rows) {
    const long group = plan->num_heads / plan->cache.num_kv_heads, d = plan->cache.head_dim;
    const int last = (num_rows - 1) / ROWS * ROWS; /* the first of the last rows */
    for (int row = 0; row < last + together(num_rows - last); row++) {
        const int source = row < num_rows ? row : 0;
        const bf16 *query = q + query_at(plan, item, kv_head, source);
        int16_t whole[MAX_HEAD_DIM];
        work->scale[row] = 1.44269504f / sqrtf((float)d); /* powers of two, not of e */
        if (plan->cache.is_int8) work->scale[row] *= widen_query(query, whole, d);
        const void *pairs = plan->cache.is_int8 ? (const void *)whole : (const void *)query;
        for (long at = 0; at < d / 2; at++)
            memcpy(work->queries[row / ROWS][at] + row % ROWS, (const int32_t *)pairs + at, sizeof(int32_t));
        memset(work->sums[row], 0, d * sizeof(float));
        work->limits[row] = item->num_keys - item->num_tokens + 1 + (int32_t)(source / group);
        work->top[row] = -INFINITY;
        memset(work->totals[row], 0, sizeof(work->totals[row]));
    }
}

/* Find the tile that begins at a key; strips past the end are those before. */
static void find_tile(const AttendPlan *plan, const Item *item, long kv_head, long first_key, uint8_t *cache,
                      Tile *tile) {
    const long left = item->num_keys - first_key, tokens = plan->cache.page_tokens;
    tile->count = left < TILE ? left : TILE;
    for (int i = 0; i < STRIPS; i++) {
        if (i * STRIP >= left) {
            tile->strips[i] = tile->strips[i - 1];
            continue;
        }
        const long key = first_key + i * STRIP;
        const long slot = plan->pages[item->first_page + key / tokens] * tokens + key % tokens;
        tile->strips[i] = find_strip(&plan->cache, cache, kv_head, slot);
    }
}

/* Attend for one item and key head, and ask for the memory of another that comes soon. */
static void attend_item(Work *work, const AttendPlan *plan, long index, long soon, const bf16 *q, uint8_t *cache,
                        const Linear *reader, const Operand *out, long rows) {
    const long num_kv_heads = plan->cache.num_kv_heads, kv_head = index % num_kv_heads;
    const Item *item = plan->items + index / num_kv_heads, *later = plan->items + soon / num_kv_heads;
    const int num_rows = (int)(item->num_tokens * (plan->num_heads / plan->cache.num_kv_heads));
    const int is_int8 = plan->cache.is_int8 != 0;
    const long d = plan->cache.head_dim;
    start_rows(work, plan, item, kv_head, q, num_rows);
    Tile tile, next;
    find_tile(plan, item, kv_head, 0, cache, &next);
    for (long first_key = 0; first_key < item->num_keys; first_key += TILE) {
        tile = next;
        if (first_key + TILE < item->num_keys) find_tile(plan, item, kv_head, first_key + TILE, cache, &next);
        else find_tile(plan, later, soon % num_kv_heads, 0, cache, &next);
        if (is_int8) take_int8_tile(work, num_rows, &tile, &next, first_key, d);
        else take_bf16_tile(work, num_rows, &tile, &next, first_key, d);
    }
    for (int row = 0; row < num_rows; row++)
        put_row(work, row, is_int8, reader, out, rows, query_at(plan, item, kv_head, row), d);
}

/* Attend for every item and key head; pack [rows, H * d] for the layer that reads it. q [rows, H, d]. */
void streamward_attend(const AttendPlan *plan, const Linear *reader, const bf16 *q, uint8_t *cache,
                       const Operand *out, long rows) {
    const long count = plan->num_items * plan->cache.num_kv_heads, num_threads = omp_get_num_threads();
    Work work; /* 130 kB of each thread's stack */
#pragma omp for schedule(dynamic, 1)
    for (long i = 0; i < count; i++)
        attend_item(&work, plan, i, i + num_threads < count ? i + num_threads : i, q, cache, reader, out, rows);
}

#endif
