/* What attention keeps of a few query rows while it goes through the keys of a stream, tile by tile. */
#ifndef STREAMWARD_ATTEND_ROWS_H
#define STREAMWARD_ATTEND_ROWS_H

#include "cache.h"
#include "linear.h"

#include <math.h>

#define TILE 64        /* keys taken together */
#define TILE_BLOCKS (TILE / CACHE_BLOCK)
#define MAX_ROWS 64    /* query rows of one item */
#define PADDED_ROWS ((MAX_ROWS / ATTEND_ROWS + 1) * ATTEND_ROWS)
#define ROW_BLOCKS (PADDED_ROWS / ATTEND_ROWS)
#define MAX_PARTS (MAX_HEAD_DIM / PART)
#define MAX_WIDTH 4
#define LOWEST -1e30f /* stands for minus infinity, so that differences stay numbers */

/* Of each row, or of each block of rows that are computed together. */
typedef struct {
    float queries[ROW_BLOCKS][MAX_HEAD_DIM][ATTEND_ROWS];       /* or pairs of bfloat16, or fours of 8 bits */
    float query_scales[ROW_BLOCKS][MAX_PARTS][ATTEND_ROWS];     /* of 8 bits, as are the next three */
    int32_t query_offsets[ROW_BLOCKS][MAX_PARTS][ATTEND_ROWS];  /* what WEIGHT_ZERO in every key adds, negative */
    float query_projections[PADDED_ROWS];                       /* what was taken out of them; see cache.h */
    float unit[PADDED_ROWS + LANES];                            /* what a weight of 1 counts */
    float weights[PADDED_ROWS][TILE];                           /* of softmax; or bytes, or bfloat16 */
    float sums[PADDED_ROWS][MAX_HEAD_DIM];
    float rescale[PADDED_ROWS + LANES];  /* what sums so far count */
    float row_max[PADDED_ROWS + LANES];  /* the largest score so far; scores are powers of two */
    float row_sum[PADDED_ROWS][LANES];   /* of the weights, in parts */
    int32_t starts[PADDED_ROWS], limits[PADDED_ROWS]; /* the first key each row sees, and the end of them */
} Work;

/* Successive blocks of one key head, up to 64 keys. */
typedef struct {
    CacheBlock blocks[TILE_BLOCKS];
    int64_t count;
} Tile;

/* What products of queries and keys are multiplied with: scores are powers of two, not of e. */
INLINE float softmax_scale(int64_t d) { return LOG2_E / sqrtf((float)d); }

/* Which of sixteen keys a row sees. */
INLINE vm seen_keys(const Work *work, int row, int64_t first_key) {
    return vm_and_not(vm_below(work->limits[row] - (int32_t)first_key), vm_below(work->starts[row] - (int32_t)first_key));
}

/* Whether a few rows see all keys of a tile. */
INLINE int sees_tile(const int rows, const Work *work, int row, int64_t first_key) {
    int sees_all = 1;
    for (int r = 0; r < rows; r++)
        sees_all &= work->starts[row + r] <= first_key && work->limits[row + r] - first_key >= TILE;
    return sees_all;
}

/* Replace what the first few lanes have in memory. */
INLINE void store_rows(const int rows, float *target, vf x) { vf_store(target, vf_select(vm_below(rows), x, vf_load(target))); }

/* Note the largest score of a tile for each of a few rows, and what it does to sums of tiles before. Return it. */
INLINE vf update_row_max(const int rows, const int sees_all, Work *work, int first_row, float scores[][TILE],
                         int64_t first_key) {
    vf tops[ATTEND_ROWS];
    UNROLL for (int r = 0; r < rows; r++) {
        tops[r] = vf_set1(LOWEST);
        UNROLL for (int i = 0; i < TILE_BLOCKS; i++) {
            vf score = vf_load(scores[r] + i * LANES);
            if (!sees_all) score = vf_select(seen_keys(work, first_row + r, first_key + i * LANES), score, vf_set1(LOWEST));
            tops[r] = vf_max(tops[r], score);
        }
    }
    const vf of_tile = vf_max_of_rows(rows, tops);
    const vf before = vf_load(work->row_max + first_row), top = vf_max(before, of_tile);
    store_rows(rows, work->rescale + first_row, vf_exp2(vf_sub(before, top)));
    store_rows(rows, work->row_max + first_row, top);
    return of_tile;
}

#endif
