/*
 * Causal attention of new tokens over a paged cache, for many streams of any length in one call.
 *
 * Online softmax over tiles of 64 keys (Milakov and Gimelshein, arXiv 1805.02867). Query heads that share a key head
 * are rows of one small product, which reads the cache as it is stored. Tiles begin at multiples of 64 keys whatever a
 * window leaves out, and sums are float32: they do not depend on what else is in the batch or how a text was cut.
 */
#include "attend_bf16.h"
#include "attend_int8.h"
#ifdef HAS_BF16_DOT
#include "attend_bf16_fast.h"
#endif

enum { CACHE_BF16, CACHE_BF16_FAST, CACHE_INT8 };

/* How many rows are taken together when so many are left; past the last they are like the first, and not used. */
INLINE int row_block(int left) {
    if (left >= ATTEND_ROWS) return ATTEND_ROWS;
    return left <= 2 ? 2 : left <= 4 ? left : left <= ATTEND_LARGE ? ATTEND_LARGE : ATTEND_ROWS;
}

INLINE void process_rows(const int rows, const int kind, const int is_first, Work *work, int row, const Tile *tile,
                         const Tile *next, const ValueScales *scales, int64_t first_key, int64_t d) {
    if (kind == CACHE_INT8) process_int8_rows(rows, is_first, work, row, tile, next, scales, first_key, d);
#ifdef HAS_BF16_DOT
    else if (kind == CACHE_BF16_FAST) process_bf16_rows_fast(rows, is_first, work, row, tile, next, first_key, d);
#endif
    else process_bf16_rows(rows, is_first, work, row, tile, next, first_key, d);
}

/* Take one tile of keys into account for all rows. */
INLINE void process_tile(const int kind, Work *work, int num_rows, const Tile *tile, const Tile *next, int64_t first_key,
                         int64_t d) {
    ValueScales scales;
    if (kind == CACHE_INT8) scales = find_value_scales(tile);
    for (int row = 0; row < num_rows; row += ATTEND_ROWS) {
        const int rows = row_block(num_rows - row);
        if (ATTEND_ROWS > 2 && rows == 2) process_rows(2, kind, 1, work, row, tile, next, &scales, first_key, d);
        else if (ATTEND_ROWS > 3 && rows == 3) process_rows(3, kind, 1, work, row, tile, next, &scales, first_key, d);
        else if (ATTEND_ROWS > 4 && rows == 4) process_rows(4, kind, 1, work, row, tile, next, &scales, first_key, d);
        else if (ATTEND_LARGE < ATTEND_ROWS && rows == ATTEND_LARGE)
            process_rows(ATTEND_LARGE, kind, 1, work, row, tile, next, &scales, first_key, d);
        else if (row == 0) process_rows(ATTEND_ROWS, kind, 1, work, row, tile, next, &scales, first_key, d);
        else process_rows(ATTEND_ROWS, kind, 0, work, row, tile, next, &scales, first_key, d);
    }
}

/* Functions of their own: inlined together they are too much for the compiler's registers. */
NOINLINE void process_bf16_tile(Work *work, int num_rows, const Tile *tile, const Tile *next, int64_t first_key,
                                int64_t d) {
    process_tile(CACHE_BF16, work, num_rows, tile, next, first_key, d);
}

NOINLINE void process_int8_tile(Work *work, int num_rows, const Tile *tile, const Tile *next, int64_t first_key,
                                int64_t d) {
    process_tile(CACHE_INT8, work, num_rows, tile, next, first_key, d);
}

#ifdef HAS_BF16_DOT
NOINLINE void process_fast_tile(Work *work, int num_rows, const Tile *tile, const Tile *next, int64_t first_key,
                                int64_t d) {
    process_tile(CACHE_BF16_FAST, work, num_rows, tile, next, first_key, d);
}
#endif

typedef struct {
    const Decoder *decoder;
    const Layer *layer;
    const Step *step;
    const float *q;
    const Operand *out;
    int kind;
    int64_t num_ahead; /* how many items on is the one that this thread will probably take next */
} AttendPhase;

/* Divide by the weights' sum, and pack for the layer that reads it. Values of 8 bits are transformed, as such layers read. */
INLINE void store_row(const AttendPhase *p, const Work *work, int row, int64_t at) {
    const Linear *reader = p->layer->out;
    const int kind = operand_kind(reader), is_int8 = p->kind == CACHE_INT8;
    const int is_turned_back = is_int8 && kind != INT8; /* by a second transform, which makes it GROUP times larger */
    const float total = vf_reduce_add(vf_load(work->row_sum[row]));
    const vf factor = vf_set1(1.0f / total / (is_turned_back ? GROUP : 1));
    const int64_t width = reader->num_inputs, rows = p->step->num_rows;
    for (int64_t i = 0; i < p->decoder->cache.head_dim; i += GROUP) {
        const int64_t group = (at % width + i) / GROUP;
        vf x[GROUP_LANES];
        UNROLL for (int j = 0; j < GROUP_LANES; j++) x[j] = vf_mul(vf_load(work->sums[row] + i + j * LANES), factor);
        if (is_turned_back) hadamard_group(x);
        if (is_int8 && kind == INT8) pack_transformed_group(p->out, rows, at / width, group, x);
        else pack_group(kind, p->out, rows, at / width, group, x);
    }
}

/* The first of the query's values that a row of an item reads. */
INLINE int64_t query_at(const AttendPhase *p, const Item *item, int64_t kv_head, int row) {
    const int64_t num_heads = p->decoder->num_heads, group = num_heads / p->decoder->cache.num_kv_heads;
    return ((item->first_row + row / group) * num_heads + kv_head * group + row % group) * p->decoder->cache.head_dim;
}

static void start_rows(Work *work, const AttendPhase *p, const Item *item, int64_t kv_head, int num_rows) {
    const int64_t group = p->decoder->num_heads / p->decoder->cache.num_kv_heads, d = p->decoder->cache.head_dim;
    const int64_t window = p->layer->window;
    const int last = (num_rows - 1) / ATTEND_ROWS * ATTEND_ROWS; /* the first of the last rows */
    for (int row = 0; row < last + row_block(num_rows - last); row++) {
        const int source = row < num_rows ? row : 0;
        const float *query = p->q + query_at(p, item, kv_head, source);
        if (p->kind == CACHE_INT8) pack_int8_query(work, row, query, p->layer->outlier_direction + kv_head * d, d);
#ifdef HAS_BF16_DOT
        else if (p->kind == CACHE_BF16_FAST) pack_bf16_query_fast(work, row, query, d);
#endif
        else pack_bf16_query(work, row, query, d);
        memset(work->sums[row], 0, (size_t)d * sizeof(float));
        memset(work->row_sum[row], 0, sizeof(work->row_sum[row]));
        const int32_t limit = item->num_keys - item->num_tokens + 1 + (int32_t)(source / group);
        work->limits[row] = limit;
        work->starts[row] = window && limit > window ? (int32_t)(limit - window) : 0;
        work->row_max[row] = LOWEST;
    }
}

/* The first key of the first tile that an item needs. */
INLINE int64_t first_key_of(const Item *item, int64_t window) {
    const int64_t limit = item->num_keys - item->num_tokens + 1;
    return window && limit > window ? (limit - window) / TILE * TILE : 0;
}

/* Find the tile that begins at a key; blocks past the end are those before. */
static void find_tile(const AttendPhase *p, const Item *item, int64_t kv_head, int64_t first_key, Tile *tile) {
    const CacheShape *shape = &p->decoder->cache;
    const int64_t left = item->num_keys - first_key, tokens = shape->page_tokens;
    tile->count = left < TILE ? left : TILE;
    for (int i = 0; i < TILE_BLOCKS; i++) {
        if (i && i * CACHE_BLOCK >= left) {
            tile->blocks[i] = tile->blocks[i - 1];
            continue;
        }
        const int64_t key = first_key + i * CACHE_BLOCK;
        const int64_t slot = p->step->pages[item->first_page + key / tokens] * tokens + key % tokens;
        tile->blocks[i] = find_block(shape, p->layer->cache, kv_head, slot);
    }
}

/* Attend for one item and key head, and ask for the memory of another that comes soon. */
static void attend_item(Work *work, const AttendPhase *p, int64_t index, int64_t soon) {
    const int64_t num_kv_heads = p->decoder->cache.num_kv_heads, kv_head = index % num_kv_heads;
    const Item *item = p->step->items + index / num_kv_heads, *later = p->step->items + soon / num_kv_heads;
    const int num_rows = (int)(item->num_tokens * (p->decoder->num_heads / num_kv_heads));
    const int64_t d = p->decoder->cache.head_dim, window = p->layer->window;
    Tile tile, next;
    start_rows(work, p, item, kv_head, num_rows);
    int64_t first_key = first_key_of(item, window);
    find_tile(p, item, kv_head, first_key, &next);
    for (; first_key < item->num_keys; first_key += TILE) {
        tile = next;
        if (first_key + TILE < item->num_keys) find_tile(p, item, kv_head, first_key + TILE, &next);
        else find_tile(p, later, soon % num_kv_heads, first_key_of(later, window), &next);
        if (p->kind == CACHE_INT8) process_int8_tile(work, num_rows, &tile, &next, first_key, d);
#ifdef HAS_BF16_DOT
        else if (p->kind == CACHE_BF16_FAST) process_fast_tile(work, num_rows, &tile, &next, first_key, d);
#endif
        else process_bf16_tile(work, num_rows, &tile, &next, first_key, d);
    }
    for (int row = 0; row < num_rows; row++) store_row(p, work, row, query_at(p, item, kv_head, row));
}

static void attend_items(const void *context, int64_t begin, int64_t end) {
    const AttendPhase *p = (const AttendPhase *)context;
    const int64_t count = p->step->num_items * p->decoder->cache.num_kv_heads;
    Work work; /* 180 kB of each thread's stack */
    for (int64_t i = begin; i < end; i++) attend_item(&work, p, i, i + p->num_ahead < count ? i + p->num_ahead : i);
}

/* Attend for every item and key head; pack [rows, H * d] for the layer that reads it. q [rows, H, d]. */
static void attend(const Decoder *decoder, const Layer *layer, const Step *step, const float *q, const Operand *out) {
    const int64_t count = step->num_items * decoder->cache.num_kv_heads;
    int kind = decoder->cache.is_int8 ? CACHE_INT8 : CACHE_BF16;
#ifdef HAS_BF16_DOT
    if (kind == CACHE_BF16 && decoder->fast_attention) kind = CACHE_BF16_FAST;
#endif
    const AttendPhase phase = {decoder, layer, step, q, out, kind, streamward_num_threads()};
    streamward_parallel_for(attend_items, &phase, count, 1, IN_ORDER);
}
