/*
 * Attention to one tile of keys and values of 8 bits.
 *
 * Queries and softmax weights get 8 bits too, so that all products are of bytes. A query has a scale for each part of
 * the head, as keys have. The scale s of a value is taken into its weight, by adding log2(s) to the score before the
 * largest is found: then the largest weight of a row in a tile is 127, whatever the scales. The weights' sum is exact.
 */
#ifndef STREAMWARD_ATTEND_INT8_H
#define STREAMWARD_ATTEND_INT8_H

#include "attend_rows.h"

#define LARGEST_WEIGHT_LOG2 6.98868469f /* of 127: sums of two products with values stay within 16 bits */

/* Scales of a tile's values, for sixteen keys each. */
typedef struct {
    vf logarithms[TILE_BLOCKS]; /* to base 2 */
    vf inverses[TILE_BLOCKS];
} ValueScales;

INLINE int32_t *int8_queries(Work *work, int block) { return (int32_t *)(void *)work->queries[block]; }

/* Turn a query into integers of 8 bits, with scales that bring products to powers of two. */
INLINE void pack_int8_query(Work *work, int row, const float *query, const float *direction, int64_t d) {
    const int block = row / ATTEND_ROWS, r = row % ATTEND_ROWS;
    const float unit = softmax_scale(d);
    float q[MAX_HEAD_DIM];
    memcpy(q, query, (size_t)d * sizeof(float));
    hadamard_groups(q, d, 1.0f / GROUP); /* keys are GROUP times too large */
    work->query_projections[row] = project_out(q, direction, d) * unit;
    for (int64_t part = 0; part < d / PART; part++) {
        vf x[PART / LANES];
        int8_t rounded[PART];
        int32_t sum;
        UNROLL for (int i = 0; i < PART / LANES; i++) x[i] = vf_load(q + part * PART + i * LANES);
        work->query_scales[block][part][r] = quantize(PART / LANES, x, rounded, &sum) * unit;
        work->query_offsets[block][part][r] = -WEIGHT_ZERO * sum;
        for (int64_t i = 0; i < PART; i += 4)
            int8_queries(work, block)[(part * PART + i) / 4 * ATTEND_ROWS + r] = four_bytes(rounded + i);
    }
}

INLINE ValueScales find_value_scales(const Tile *tile) {
    ValueScales scales;
    UNROLL for (int i = 0; i < TILE_BLOCKS; i++) {
        const vf scale = vf_load_bf16(tile->blocks[i].value_scales);
        scales.logarithms[i] = vf_log2(scale);
        scales.inverses[i] = vf_div(vf_set1(1.0f), scale);
    }
    return scales;
}

/* Scores of a few rows, while the first rows ask for the next tile's keys. Sums over a part are exact. */
INLINE void score_int8(const int rows, const int is_first, Work *work, int first_row, const Tile *tile, const Tile *next,
                       const ValueScales *value_scales, int64_t d, float scores[][TILE]) {
    const int row_block = first_row / ATTEND_ROWS;
    const int32_t *queries = int8_queries(work, row_block);
    for (int block = 0; block * CACHE_BLOCK < tile->count; block++) {
        const uint8_t *keys = tile->blocks[block].keys;
        const vf projections = vf_load(tile->blocks[block].projections);
        vf sums[ATTEND_ROWS];
        UNROLL for (int r = 0; r < rows; r++)
            sums[r] = vf_fma(projections, vf_set1(work->query_projections[first_row + r]), value_scales->logarithms[block]);
        for (int64_t part = 0; part < d / PART; part++) {
            vi acc[ATTEND_ROWS];
            UNROLL for (int r = 0; r < rows; r++)
                acc[r] = WEIGHT_ZERO ? vi_set1(work->query_offsets[row_block][part][r]) : vi_zero();
            for (int64_t at = part * PART / 4; at < (part + 1) * PART / 4; at++) {
                const vi k = vi_load(keys + at * CACHE_BLOCK * 4);
                if (is_first) prefetch(next->blocks[block].keys + at * CACHE_BLOCK * 4);
                UNROLL for (int r = 0; r < rows; r++) acc[r] = dot_weights_once(acc[r], k, queries + at * ATTEND_ROWS + r);
            }
            const vf scale = vf_load_bf16(tile->blocks[block].key_scales + part * CACHE_BLOCK);
            UNROLL for (int r = 0; r < rows; r++) {
                const vf product = vf_mul(vi_to_float(acc[r]), scale);
                sums[r] = vf_fma(product, vf_set1(work->query_scales[row_block][part][r]), sums[r]);
            }
        }
        UNROLL for (int r = 0; r < rows; r++) vf_store(scores[r] + block * LANES, sums[r]);
    }
}

/* Turn the scores of a few rows into weights from 0 to 127, relative to each row's largest score in the tile. */
INLINE void softmax_int8(const int rows, const int sees_all, Work *work, int first_row, float scores[][TILE],
                         int64_t first_key, const ValueScales *scales) {
    const vf of_tile = update_row_max(rows, sees_all, work, first_row, scores, first_key);
    const vf zero = vf_sub(of_tile, vf_set1(LARGEST_WEIGHT_LOG2)); /* the score with a weight of 1 */
    store_rows(rows, work->unit + first_row, vf_exp2(vf_sub(zero, vf_load(work->row_max + first_row))));
    float zeros[LANES];
    vf_store(zeros, zero);
    const vf round = vf_set1(0x1p23f); /* a sum with it has the integer in its lowest bits */
    for (int r = 0; r < rows; r++) {
        const int row = first_row + r;
        vf sum = vf_zero();
        UNROLL for (int i = 0; i < TILE_BLOCKS; i++) {
            vf weight = vf_exp2_roughly(vf_sub(vf_load(scores[r] + i * LANES), vf_set1(zeros[r])));
            vf next = vf_fma(weight, scales->inverses[i], sum);
            if (!sees_all) {
                const vm seen = seen_keys(work, row, first_key + i * LANES);
                weight = vf_select(seen, weight, vf_zero());
                next = vf_select(seen, next, sum);
            }
            sum = next;
            vi_store_bytes((uint8_t *)work->weights[row] + i * LANES, vf_bits(vf_add(weight, round)));
        }
        const vf before = vf_mul(vf_load(work->row_sum[row]), vf_set1(work->rescale[row]));
        vf_store(work->row_sum[row], vf_fma(sum, vf_set1(work->unit[row]), before));
    }
}

/* sums = sums * rescale + weights * values, for a few rows and 16 * width values of the head; the sum of a tile is exact. */
INLINE void add_values_int8(const int rows, const int is_first, Work *work, int first_row, int64_t offset,
                            const Tile *tile, const Tile *next, int64_t d) {
    const int width = ATTEND_WIDTH_DOT(rows);
    vi acc[ATTEND_ROWS][MAX_WIDTH];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < width; i++) acc[r][i] = vi_zero();
    const uint8_t *weights = (const uint8_t *)work->weights[first_row];
    for (int64_t key = 0; key < tile->count; key += 4) {
        const int64_t block = key / CACHE_BLOCK, at = key % CACHE_BLOCK * d + offset * 4;
        vi v[MAX_WIDTH];
        UNROLL for (int i = 0; i < width; i++) {
            v[i] = vi_load(tile->blocks[block].values + at + i * 64);
            if (is_first) prefetch(next->blocks[block].values + at + i * 64);
        }
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < width; i++)
                acc[r][i] = dot_values(acc[r][i], v[i], weights + r * TILE * sizeof(float) + key);
    }
    UNROLL for (int r = 0; r < rows; r++) {
        const vf rescale = vf_set1(work->rescale[first_row + r]), unit = vf_set1(work->unit[first_row + r]);
        UNROLL for (int i = 0; i < width; i++) {
            float *to = work->sums[first_row + r] + offset + i * LANES;
            vf_store(to, vf_fma(vi_to_float(acc[r][i]), unit, vf_mul(vf_load(to), rescale)));
        }
    }
}

INLINE void process_int8_rows(const int rows, const int is_first, Work *work, int row, const Tile *tile, const Tile *next,
                              const ValueScales *scales, int64_t first_key, int64_t d) {
    float scores[ATTEND_ROWS][TILE];
    score_int8(rows, is_first, work, row, tile, next, scales, d, scores);
    if (sees_tile(rows, work, row, first_key)) softmax_int8(rows, 1, work, row, scores, first_key, scales);
    else softmax_int8(rows, 0, work, row, scores, first_key, scales);
    for (int64_t offset = 0; offset < d; offset += ATTEND_WIDTH_DOT(rows) * LANES)
        add_values_int8(rows, is_first, work, row, offset, tile, next, d);
}

#endif
