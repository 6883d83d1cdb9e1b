/*
 * Causal attention of new tokens over a paged cache, for many streams of any length in one call.
 *
 * Online softmax over tiles of 64 keys (Milakov and Gimelshein, arXiv 1805.02867). Query heads that share a key head
 * are rows of one small product, which reads the cache as it is stored; see layers.h. Sums are float32 and do not depend
 * on what else is in the batch.
 */
#if defined(__x86_64__)

#include "attend_bf16.h"
#include "attend_int8.h"

#include <omp.h>

/* How many rows are taken together when so many are left; past the last they are like the first, and not used. */
INLINE int together(int left) { return left <= 2 ? 2 : left <= 4 ? 4 : left <= 8 ? 8 : ROWS; }

INLINE void take_rows(const int rows, const int is_int8, const int is_first, Work *work, int row, const Tile *tile,
                      const Tile *next, const ValueScales *scales, long first_key, long d) {
    if (is_int8) take_int8_rows(rows, is_first, work, row, tile, next, scales, first_key, d);
    else take_bf16_rows(rows, is_first, work, row, tile, next, first_key, d);
}

/* Take one tile of keys into account for all rows. */
INLINE void take_tile(const int is_int8, Work *work, int num_rows, const Tile *tile, const Tile *next, long first_key,
                      long d) {
    const ValueScales scales = is_int8 ? find_value_scales(tile) : (ValueScales){0};
    for (int row = 0; row < num_rows; row += ROWS) {
        const int rows = together(num_rows - row);
        if (rows == 2) take_rows(2, is_int8, 1, work, row, tile, next, &scales, first_key, d);
        else if (rows == 4) take_rows(4, is_int8, 1, work, row, tile, next, &scales, first_key, d);
        else if (rows == 8) take_rows(8, is_int8, 1, work, row, tile, next, &scales, first_key, d);
        else if (row == 0) take_rows(ROWS, is_int8, 1, work, row, tile, next, &scales, first_key, d);
        else take_rows(ROWS, is_int8, 0, work, row, tile, next, &scales, first_key, d);
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

/* Divide by the weights' sum, and pack for the layer that reads it. Values of 8 bits are rotated, as such layers read. */
INLINE void put_row(const Work *work, int row, const int is_int8, const Linear *reader, const Operand *out, long rows,
                    long at, long d) {
    const int is_turned_back = is_int8 && !reader->steps; /* by a second rotation, which makes it GROUP times larger */
    const float total = _mm512_reduce_add_ps(_mm512_loadu_ps(work->totals[row]));
    const __m512 factor = _mm512_set1_ps(1.0f / total / (is_turned_back ? GROUP : 1));
    const long width = reader->num_inputs;
    for (long i = 0; i < d; i += GROUP) {
        const long group = (at % width + i) / GROUP;
        __m512 x[GROUP_LANES];
        for (int j = 0; j < GROUP_LANES; j++)
            x[j] = _mm512_mul_ps(_mm512_loadu_ps(work->sums[row] + i + j * LANES), factor);
        if (is_turned_back) rotate_group(x);
        if (is_int8 && reader->steps) put_rotated_group(out, rows, at / width, group, x);
        else put_group(reader, out, rows, at / width, group, x);
    }
}

/* The first of the query's values that a row of an item reads. */
INLINE long query_at(const AttendPlan *plan, const Item *item, long kv_head, int row) {
    const long group = plan->num_heads / plan->cache.num_kv_heads;
    return ((item->first_row + row / group) * plan->num_heads + kv_head * group + row % group) * plan->cache.head_dim;
}

static void start_rows(Work *work, const AttendPlan *plan, const Item *item, long kv_head, const bf16 *q,
                       const float *directions, int num_rows) {
    const long group = plan->num_heads / plan->cache.num_kv_heads, d = plan->cache.head_dim;
    const int last = (num_rows - 1) / ROWS * ROWS; /* the first of the last rows */
    for (int row = 0; row < last + together(num_rows - last); row++) {
        const int source = row < num_rows ? row : 0;
        const bf16 *query = q + query_at(plan, item, kv_head, source);
        if (plan->cache.is_int8) pack_int8_query(work, row, query, directions + kv_head * d, d);
        else pack_bf16_query(work, row, query, d);
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
static void attend_item(Work *work, const AttendPlan *plan, long index, long soon, const bf16 *q,
                        const float *directions, uint8_t *cache, const Linear *reader, const Operand *out, long rows) {
    const long num_kv_heads = plan->cache.num_kv_heads, kv_head = index % num_kv_heads;
    const Item *item = plan->items + index / num_kv_heads, *later = plan->items + soon / num_kv_heads;
    const int num_rows = (int)(item->num_tokens * (plan->num_heads / plan->cache.num_kv_heads));
    const int is_int8 = plan->cache.is_int8 != 0;
    const long d = plan->cache.head_dim;
    start_rows(work, plan, item, kv_head, q, directions, num_rows);
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

/*
 * Attend for every item and key head; pack [rows, H * d] for the layer that reads it. q [rows, H, d], directions
 * [num_kv_heads, d] for a cache of 8 bits.
 */
void streamward_attend(const AttendPlan *plan, const Linear *reader, const bf16 *q, const float *directions,
                       uint8_t *cache, const Operand *out, long rows) {
    const long count = plan->num_items * plan->cache.num_kv_heads, num_threads = omp_get_num_threads();
    Work work; /* 130 kB of each thread's stack */
#pragma omp for schedule(dynamic, 1)
    for (long i = 0; i < count; i++)
        attend_item(&work, plan, i, i + num_threads < count ? i + num_threads : i, q, directions, cache, reader, out, rows);
}

#endif
