/*
 * Attention to one tile of keys and values in bfloat16 by instructions that multiply pairs: queries and weights are rounded
 * to bfloat16 too. Their sums are rounded unlike FMA, therefore no other unit computes the same bits.
 */
#ifndef STREAMWARD_ATTEND_BF16_FAST_H
#define STREAMWARD_ATTEND_BF16_FAST_H

#include "attend_rows.h"

INLINE int32_t *query_pairs(Work *work, int block) { return (int32_t *)(void *)work->queries[block]; }

INLINE void pack_bf16_query_fast(Work *work, int row, const float *query, int64_t d) {
    bf16 rounded[MAX_HEAD_DIM];
    for (int64_t i = 0; i < d; i += LANES) vf_store_bf16(rounded + i, vf_load(query + i));
    for (int64_t at = 0; at < d / 2; at++)
        query_pairs(work, row / ATTEND_ROWS)[at * ATTEND_ROWS + row % ATTEND_ROWS] = four_bytes(rounded + at * 2);
}

INLINE void score_bf16_fast(const int rows, const int is_first, Work *work, int first_row, const Tile *tile,
                            const Tile *next, int64_t d, float scores[][TILE]) {
    const int width = ATTEND_WIDTH_DOT(rows);
    const int32_t *queries = query_pairs(work, first_row / ATTEND_ROWS);
    const vf scale = vf_set1(softmax_scale(d));
    for (int block = 0; block * CACHE_BLOCK < tile->count; block += width) {
        vf sums[ATTEND_ROWS][MAX_WIDTH];
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < width; i++) sums[r][i] = vf_zero();
        for (int64_t at = 0; at < d / 2; at++) {
            vi k[MAX_WIDTH];
            UNROLL for (int i = 0; i < width; i++) {
                k[i] = vi_load(tile->blocks[block + i].keys + at * CACHE_BLOCK * 4);
                if (is_first) prefetch(next->blocks[block + i].keys + at * CACHE_BLOCK * 4);
            }
            UNROLL for (int r = 0; r < rows; r++)
                UNROLL for (int i = 0; i < width; i++)
                    sums[r][i] = dot_pairs(sums[r][i], k[i], queries + at * ATTEND_ROWS + r);
        }
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < width; i++) vf_store(scores[r] + (block + i) * LANES, vf_mul(sums[r][i], scale));
    }
}

INLINE void softmax_bf16_fast(const int rows, const int sees_all, Work *work, int first_row, float scores[][TILE],
                              int64_t first_key) {
    update_row_max(rows, sees_all, work, first_row, scores, first_key);
    for (int r = 0; r < rows; r++) {
        const int row = first_row + r;
        const vf top = vf_set1(work->row_max[row]);
        bf16 *weights = (bf16 *)(void *)work->weights[row];
        vf sum = vf_zero();
        UNROLL for (int i = 0; i < TILE_BLOCKS; i++) {
            vf weight = vf_exp2_roughly(vf_sub(vf_load(scores[r] + i * LANES), top));
            if (!sees_all) weight = vf_select(seen_keys(work, row, first_key + i * LANES), weight, vf_zero());
            sum = vf_add(sum, weight);
            vf_store_bf16(weights + i * LANES, weight);
        }
        vf_store(work->row_sum[row], vf_fma(vf_load(work->row_sum[row]), vf_set1(work->rescale[row]), sum));
    }
}

INLINE void add_values_bf16_fast(const int rows, const int is_first, Work *work, int first_row, int64_t offset,
                                 const Tile *tile, const Tile *next, int64_t d) {
    const int width = ATTEND_WIDTH_DOT(rows);
    vf sums[ATTEND_ROWS][MAX_WIDTH];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < width; i++)
            sums[r][i] = vf_mul(vf_load(work->sums[first_row + r] + offset + i * LANES), vf_set1(work->rescale[first_row + r]));
    for (int64_t key = 0; key < tile->count; key += 2) {
        const int64_t block = key / CACHE_BLOCK, at = key % CACHE_BLOCK * d * 2 + offset * 4;
        /* of an odd number the last key's partner is another stream's past: whatever it holds must not count */
        const __mmask32 known = key + 1 < tile->count ? 0xffffffff : 0x55555555;
        vi v[MAX_WIDTH];
        UNROLL for (int i = 0; i < width; i++) {
            v[i] = _mm512_maskz_loadu_epi16(known, tile->blocks[block].values + at + i * 64);
            if (is_first) prefetch(next->blocks[block].values + at + i * 64);
        }
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < width; i++)
                sums[r][i] = dot_pairs(sums[r][i], v[i], (const bf16 *)(const void *)work->weights[first_row + r] + key);
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < width; i++) vf_store(work->sums[first_row + r] + offset + i * LANES, sums[r][i]);
}

INLINE void process_bf16_rows_fast(const int rows, const int is_first, Work *work, int row, const Tile *tile,
                                   const Tile *next, int64_t first_key, int64_t d) {
    float scores[ATTEND_ROWS][TILE];
    score_bf16_fast(rows, is_first, work, row, tile, next, d, scores);
    if (sees_tile(rows, work, row, first_key)) softmax_bf16_fast(rows, 1, work, row, scores, first_key);
    else softmax_bf16_fast(rows, 0, work, row, scores, first_key);
    for (int64_t offset = 0; offset < d; offset += ATTEND_WIDTH_DOT(rows) * LANES)
        add_values_bf16_fast(rows, is_first, work, row, offset, tile, next, d);
}

#endif
