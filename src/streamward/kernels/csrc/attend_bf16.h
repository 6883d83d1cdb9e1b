/* Attention to one tile of keys and values in bfloat16: queries, weights and sums are float32. */
#ifndef STREAMWARD_ATTEND_BF16_H
#define STREAMWARD_ATTEND_BF16_H

#include "attend_rows.h"

INLINE void pack_bf16_query(Work *work, int row, const float *query, int64_t d) {
    for (int64_t at = 0; at < d; at++) work->queries[row / ATTEND_ROWS][at][row % ATTEND_ROWS] = query[at];
}

INLINE vf even_values(vi pairs) { return vi_as_float(vi_shift_left(pairs, 16)); }
INLINE vf odd_values(vi pairs) { return vi_as_float(vi_and(pairs, vi_set1((int32_t)0xffff0000u))); }

/* sums += values * what each row has for them, from lane group `first` on. */
INLINE void add_products(const int rows, const int first, const vf *values, const float *of_rows, const int stride,
                         vf (*sums)[MAX_WIDTH]) {
    UNROLL for (int r = 0; r < rows; r++) {
        const vf factor = vf_set1(of_rows[r * stride]);
        UNROLL for (int i = 0; i < ATTEND_GROUPED; i++) sums[r][first + i] = vf_fma(values[i], factor, sums[r][first + i]);
    }
}

/* Products of a few rows with a tile's keys in the order of the head, while the first rows ask for the next tile's. */
INLINE void score_bf16(const int rows, const int is_first, const Work *work, int first_row, const Tile *tile,
                       const Tile *next, int64_t d, float scores[][TILE]) {
    const int width = ATTEND_WIDTH(rows);
    const float(*queries)[ATTEND_ROWS] = work->queries[first_row / ATTEND_ROWS];
    const vf scale = vf_set1(softmax_scale(d));
    for (int block = 0; block * CACHE_BLOCK < tile->count; block += width) {
        vf sums[ATTEND_ROWS][MAX_WIDTH];
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < width; i++) sums[r][i] = vf_zero();
        for (int64_t at = 0; at < d / 2; at++) {
            UNROLL for (int first = 0; first < width; first += ATTEND_GROUPED) {
                vf even[ATTEND_GROUPED], odd[ATTEND_GROUPED];
                UNROLL for (int i = 0; i < ATTEND_GROUPED; i++) {
                    const vi pairs = vi_load(tile->blocks[block + first + i].keys + at * CACHE_BLOCK * 4);
                    if (is_first) prefetch(next->blocks[block + first + i].keys + at * CACHE_BLOCK * 4);
                    even[i] = even_values(pairs);
                    odd[i] = odd_values(pairs);
                }
                add_products(rows, first, even, queries[2 * at], 1, sums);
                add_products(rows, first, odd, queries[2 * at + 1], 1, sums);
            }
        }
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < width; i++) vf_store(scores[r] + (block + i) * LANES, vf_mul(sums[r][i], scale));
    }
}

/* Turn the scores of a few rows into weights relative to each row's largest score so far. */
INLINE void softmax_bf16(const int rows, const int sees_all, Work *work, int first_row, float scores[][TILE],
                         int64_t first_key) {
    update_row_max(rows, sees_all, work, first_row, scores, first_key);
    for (int r = 0; r < rows; r++) {
        const int row = first_row + r;
        const vf top = vf_set1(work->row_max[row]);
        vf sum = vf_zero();
        UNROLL for (int i = 0; i < TILE_BLOCKS; i++) {
            vf weight = vf_exp2_roughly(vf_sub(vf_load(scores[r] + i * LANES), top));
            if (!sees_all) weight = vf_select(seen_keys(work, row, first_key + i * LANES), weight, vf_zero());
            sum = vf_add(sum, weight);
            vf_store(work->weights[row] + i * LANES, weight);
        }
        vf_store(work->row_sum[row], vf_fma(vf_load(work->row_sum[row]), vf_set1(work->rescale[row]), sum));
    }
}

/* sums = sums * rescale + weights * values in the order of the keys, for a few rows and 16 * width values of the head. */
INLINE void add_values_bf16(const int rows, const int is_first, Work *work, int first_row, int64_t offset,
                            const Tile *tile, const Tile *next, int64_t d) {
    const int width = ATTEND_WIDTH(rows);
    vf sums[ATTEND_ROWS][MAX_WIDTH];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < width; i++)
            sums[r][i] = vf_mul(vf_load(work->sums[first_row + r] + offset + i * LANES), vf_set1(work->rescale[first_row + r]));
    const float(*weights)[TILE] = (const float(*)[TILE])work->weights + first_row;
    for (int64_t key = 0; key < tile->count; key += 2) {
        const int64_t block = key / CACHE_BLOCK, at = key % CACHE_BLOCK * d * 2 + offset * 4;
        const int is_alone = key + 1 == tile->count; /* its partner is another stream's past, which must not count */
        UNROLL for (int first = 0; first < width; first += ATTEND_GROUPED) {
            vf even[ATTEND_GROUPED], odd[ATTEND_GROUPED];
            UNROLL for (int i = 0; i < ATTEND_GROUPED; i++) {
                const vi pairs = vi_load(tile->blocks[block].values + at + (first + i) * 64);
                if (is_first) prefetch(next->blocks[block].values + at + (first + i) * 64);
                even[i] = even_values(pairs);
                odd[i] = odd_values(pairs);
            }
            add_products(rows, first, even, weights[0] + key, TILE, sums);
            if (!is_alone) add_products(rows, first, odd, weights[0] + key + 1, TILE, sums);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < width; i++) vf_store(work->sums[first_row + r] + offset + i * LANES, sums[r][i]);
}

INLINE void process_bf16_rows(const int rows, const int is_first, Work *work, int row, const Tile *tile, const Tile *next,
                              int64_t first_key, int64_t d) {
    float scores[ATTEND_ROWS][TILE];
    score_bf16(rows, is_first, work, row, tile, next, d, scores);
    if (sees_tile(rows, work, row, first_key)) softmax_bf16(rows, 1, work, row, scores, first_key);
    else softmax_bf16(rows, 0, work, row, scores, first_key);
    for (int64_t offset = 0; offset < d; offset += ATTEND_WIDTH(rows) * LANES)
        add_values_bf16(rows, is_first, work, row, offset, tile, next, d);
}

#endif
