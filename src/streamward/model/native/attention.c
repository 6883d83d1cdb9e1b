/*
 * Causal attention of new tokens over a paged cache, for many streams of any length in one call.
 *
 * Online softmax over tiles of 64 keys (Milakov and Gimelshein, arXiv 1805.02867). Query heads that share a key head
 * are rows of one small product. Sums are float32 and do not depend on what else is in the batch.
 */
#if defined(__x86_64__)

#include "layers.h"

#include <math.h>
#include <string.h>

#define TILE 64      /* keys taken together */
#define MAX_ROWS 64  /* query rows of one item */
#define MAX_DIM 256  /* largest head */
#define CHUNK 64     /* values of a head accumulated together: four registers */

typedef struct {
    int32_t keys[MAX_DIM / 2 * TILE];     /* pairs of a key's values, [d / 2, TILE] */
    int32_t values[TILE / 2 * MAX_DIM];   /* pairs of successive keys' values, [TILE / 2, d], order of unpack */
    bf16 weights[MAX_ROWS][TILE];
    float sums[MAX_ROWS][MAX_DIM];        /* order of unpack */
    float decay[MAX_ROWS], top[MAX_ROWS], total[MAX_ROWS];
    const bf16 *queries[MAX_ROWS];
    int32_t limits[MAX_ROWS];             /* keys each row sees */
} Work;

/* Transpose sixteen rows of sixteen 32-bit values each. */
INLINE void transpose(const bf16 *const *rows, long offset, int32_t *target) {
    __m512i a[LANES], b[LANES];
    for (int i = 0; i < LANES; i++) a[i] = _mm512_loadu_si512(rows[i] + offset);
    for (int i = 0; i < LANES; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        __m512i low01 = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88), high01 = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        __m512i low23 = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        __m512i high23 = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
        _mm512_storeu_si512(target + i * TILE, _mm512_shuffle_i32x4(low01, low23, 0x88));
        _mm512_storeu_si512(target + (i + 4) * TILE, _mm512_shuffle_i32x4(high01, high23, 0x88));
        _mm512_storeu_si512(target + (i + 8) * TILE, _mm512_shuffle_i32x4(low01, low23, 0xdd));
        _mm512_storeu_si512(target + (i + 12) * TILE, _mm512_shuffle_i32x4(high01, high23, 0xdd));
    }
}

/* Bring a tile's keys and values into the order in which pairs are multiplied. */
INLINE void pack_tile(Work *work, const bf16 *const *keys, const bf16 *const *values, long num_keys, long d) {
    for (long key = 0; key < num_keys; key += LANES)
        for (long pair = 0; pair < d / 2; pair += LANES)
            transpose(keys + key, 2 * pair, work->keys + pair * TILE + key);
    for (long key = 0; key < num_keys; key += 2)
        for (long i = 0; i < d; i += 2 * LANES) {
            __m512i even = _mm512_loadu_si512(values[key] + i), odd = _mm512_loadu_si512(values[key + 1] + i);
            int32_t *target = work->values + key / 2 * d + i;
            _mm512_storeu_si512(target, _mm512_unpacklo_epi16(even, odd));
            _mm512_storeu_si512(target + LANES, _mm512_unpackhi_epi16(even, odd));
        }
}

INLINE __m512bh pairs(const int32_t *source) { return (__m512bh)_mm512_loadu_si512(source); }

INLINE __m512bh pair_everywhere(const bf16 *source) {
    int32_t pair;
    memcpy(&pair, source, sizeof(pair));
    return (__m512bh)_mm512_set1_epi32(pair);
}

/* Scores of a few rows with a tile's keys. */
INLINE void score_rows(const int rows, const bf16 *const *queries, const int32_t *keys, long d, float scores[][TILE]) {
    for (int key = 0; key < TILE; key += 2 * LANES) {
        __m512 low[8], high[8];
        for (int r = 0; r < rows; r++) low[r] = high[r] = _mm512_setzero_ps();
        for (long pair = 0; pair < d / 2; pair++) {
            __m512bh k0 = pairs(keys + pair * TILE + key), k1 = pairs(keys + pair * TILE + key + LANES);
            for (int r = 0; r < rows; r++) {
                __m512bh q = pair_everywhere(queries[r] + 2 * pair);
                low[r] = _mm512_dpbf16_ps(low[r], k0, q);
                high[r] = _mm512_dpbf16_ps(high[r], k1, q);
            }
        }
        for (int r = 0; r < rows; r++) {
            _mm512_storeu_ps(scores[r] + key, low[r]);
            _mm512_storeu_ps(scores[r] + key + LANES, high[r]);
        }
    }
}

/* Turn a row's scores into weights relative to its largest score so far. */
INLINE void weigh_row(Work *work, int row, const float *scores, long first_key, float scale) {
    __m512 x[TILE / LANES], top = _mm512_set1_ps(work->top[row]), total = _mm512_setzero_ps();
    __mmask16 seen[TILE / LANES];
    for (int i = 0; i < TILE / LANES; i++) {
        long left = work->limits[row] - first_key - i * LANES;
        seen[i] = left >= LANES ? 0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
        x[i] = _mm512_mul_ps(_mm512_loadu_ps(scores + i * LANES), _mm512_set1_ps(scale));
        top = _mm512_mask_max_ps(top, seen[i], top, x[i]);
    }
    float highest = _mm512_reduce_max_ps(top);
    for (int i = 0; i < TILE / LANES; i++) {
        __m512 weight = _mm512_maskz_mov_ps(seen[i], exp2_lanes(_mm512_sub_ps(x[i], _mm512_set1_ps(highest))));
        total = _mm512_add_ps(total, weight);
        store_bf16(work->weights[row] + i * LANES, weight);
    }
    work->decay[row] = _mm512_cvtss_f32(exp2_lanes(_mm512_set1_ps(work->top[row] - highest)));
    work->total[row] = work->total[row] * work->decay[row] + _mm512_reduce_add_ps(total);
    work->top[row] = highest;
}

/* sums = sums * decay + weights * values, for a few rows and 64 values of the head. */
INLINE void add_values(const int rows, Work *work, int first_row, long offset, long num_keys, long d) {
    __m512 sums[4][CHUNK / LANES];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < CHUNK / LANES; i++)
            sums[r][i] = _mm512_mul_ps(_mm512_loadu_ps(work->sums[first_row + r] + offset + i * LANES),
                                       _mm512_set1_ps(work->decay[first_row + r]));
    for (long key = 0; key < num_keys; key += 2) {
        const int32_t *values = work->values + key / 2 * d + offset;
        __m512bh v0 = pairs(values), v1 = pairs(values + LANES);
        __m512bh v2 = pairs(values + 2 * LANES), v3 = pairs(values + 3 * LANES);
        for (int r = 0; r < rows; r++) {
            __m512bh weight = pair_everywhere(work->weights[first_row + r] + key);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], v0, weight);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], v1, weight);
            sums[r][2] = _mm512_dpbf16_ps(sums[r][2], v2, weight);
            sums[r][3] = _mm512_dpbf16_ps(sums[r][3], v3, weight);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < CHUNK / LANES; i++)
            _mm512_storeu_ps(work->sums[first_row + r] + offset + i * LANES, sums[r][i]);
}

/* Take one tile of keys into account for all rows. Rows are computed two, four or eight at a time. */
static void take_tile(Work *work, int num_rows, long first_key, long num_keys, long d) {
    const float scale = 1.44269504f / sqrtf((float)d); /* powers of two below */
    float scores[8][TILE];
    for (int row = 0; row < num_rows; row += 8) {
        const int rows = num_rows - row < 8 ? num_rows - row : 8;
        const bf16 *const *queries = work->queries + row;
        if (rows <= 2) score_rows(2, queries, work->keys, d, scores);
        else if (rows <= 4) score_rows(4, queries, work->keys, d, scores);
        else score_rows(8, queries, work->keys, d, scores);
        for (int r = 0; r < rows; r++) weigh_row(work, row + r, scores[r], first_key, scale);
    }
    for (int row = 0; row < num_rows; row += 4)
        for (long offset = 0; offset < d; offset += CHUNK) {
            if (num_rows - row <= 2) add_values(2, work, row, offset, num_keys, d);
            else add_values(4, work, row, offset, num_keys, d);
        }
}

/* Divide by the weights' sum, undo the order of unpack, and pack for the layer that reads it. */
INLINE void put_row(const Work *work, int row, const Linear *reader, const Operand *out, long rows, long at, long d) {
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    const __m512 factor = _mm512_set1_ps(1.0f / work->total[row]);
    const long width = reader->num_inputs;
    for (long i = 0; i < d; i += GROUP) {
        __m512 x[GROUP_LANES];
        for (int j = 0; j < GROUP_LANES; j += 2) {
            const float *sums = work->sums[row] + i + j * LANES;
            const __m512 low = _mm512_loadu_ps(sums), high = _mm512_loadu_ps(sums + LANES);
            x[j] = _mm512_mul_ps(_mm512_permutex2var_ps(low, first, high), factor);
            x[j + 1] = _mm512_mul_ps(_mm512_permutex2var_ps(low, second, high), factor);
        }
        put_group(reader, out, rows, at / width, (at % width + i) / GROUP, x);
    }
}

static int start_rows(Work *work, const AttendPlan *plan, const Item *item, long kv_head, const bf16 *q) {
    const long group = plan->num_heads / plan->num_kv_heads, d = plan->head_dim;
    int row = 0;
    for (long token = 0; token < item->num_tokens; token++)
        for (long member = 0; member < group; member++, row++) {
            work->queries[row] = q + ((item->first_row + token) * plan->num_heads + kv_head * group + member) * d;
            work->limits[row] = item->num_keys - item->num_tokens + 1 + token;
        }
    for (int i = row; i < (row + 7) / 8 * 8; i++) { /* padding of the last rows: computed, not used */
        work->queries[i] = work->queries[0];
        memset(work->weights[i], 0, sizeof(work->weights[i]));
    }
    const int padded = (row + 7) / 8 * 8;
    memset(work->sums, 0, padded * sizeof(work->sums[0]));
    for (int i = 0; i < padded; i++) {
        work->top[i] = -INFINITY;
        work->total[i] = work->decay[i] = 0.0f;
    }
    return row;
}

/* Where a tile's keys and values are. */
typedef struct {
    const bf16 *keys[TILE], *values[TILE];
    long count; /* rounded up: past the end the last key is repeated, so that values are finite */
} Tile;

/* Find the tile that begins at a key, and ask for its memory. */
static void find_tile(const AttendPlan *plan, const Item *item, long kv_head, long first_key, const bf16 *keys,
                      const bf16 *values, Tile *tile) {
    const long d = plan->head_dim, page_tokens = plan->page_tokens, left = item->num_keys - first_key;
    const int32_t *pages = plan->pages + item->first_page;
    long page = first_key / page_tokens, offset = first_key % page_tokens;
    tile->count = left >= TILE ? TILE : (left + LANES - 1) / LANES * LANES;
    for (long i = 0; i < tile->count; i++) {
        const long at = (kv_head * plan->num_slots + pages[page] * page_tokens + offset) * d;
        tile->keys[i] = keys + at;
        tile->values[i] = values + at;
        for (long line = 0; line < d; line += 32) {
            _mm_prefetch((const char *)(keys + at + line), _MM_HINT_T0);
            _mm_prefetch((const char *)(values + at + line), _MM_HINT_T0);
        }
        if (i + 1 < left && ++offset == page_tokens) {
            offset = 0;
            page++;
        }
    }
}

static void attend_item(Work *work, const AttendPlan *plan, const Item *item, long kv_head, const bf16 *q,
                        const bf16 *keys, const bf16 *values, const Linear *reader, const Operand *out, long rows) {
    const int num_rows = start_rows(work, plan, item, kv_head, q);
    const long d = plan->head_dim;
    Tile tile;
    find_tile(plan, item, kv_head, 0, keys, values, &tile);
    for (long first_key = 0; first_key < item->num_keys; first_key += TILE) {
        const long count = tile.count;
        pack_tile(work, tile.keys, tile.values, count, d);
        if (first_key + TILE < item->num_keys) find_tile(plan, item, kv_head, first_key + TILE, keys, values, &tile);
        take_tile(work, num_rows, first_key, count, d);
    }
    for (int row = 0; row < num_rows; row++) put_row(work, row, reader, out, rows, work->queries[row] - q, d);
}

/* Attend for every item and key head; pack [rows, H * d] for the layer that reads it. q [rows, H, d]; keys and values
 * [K, S, d]. */
void streamward_attend(const AttendPlan *plan, const Linear *reader, const bf16 *q, const bf16 *keys,
                       const bf16 *values, const Operand *out, long rows) {
    Work work; /* 200 kB of each thread's stack */
    memset(work.keys, 0, sizeof(work.keys));
#pragma omp for schedule(dynamic, 1)
    for (long i = 0; i < plan->num_items * plan->num_kv_heads; i++)
        attend_item(&work, plan, plan->items + i / plan->num_kv_heads, i % plan->num_kv_heads, q, keys, values, reader,
                    out, rows);
}

#endif
