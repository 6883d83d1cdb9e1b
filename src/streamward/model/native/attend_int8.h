/*
 * Attention to one tile of keys and values of 8 bits.
 *
 * Queries and softmax weights get 8 bits too, so that all products are of bytes. A query has a scale for each part of
 * the head, as keys have. The scale s of a value is taken into its weight, by adding log2(s) to the score before the
 * largest is found: then the largest weight of a row in a tile is 255, whatever the scales. The weights' sum is exact.
 */
#ifndef STREAMWARD_ATTEND_INT8_H
#define STREAMWARD_ATTEND_INT8_H

#include "attend_rows.h"

#define LOG2_255 7.99435344f

/* Scales of a tile's values, for sixteen keys each. */
typedef struct {
    __m512 logarithms[STRIPS]; /* to base 2 */
    __m512 inverses[STRIPS];
} ValueScales;

/* Turn a query into whole numbers of 8 bits, with scales that bring products to powers of two. */
INLINE void pack_int8_query(Work *work, int row, const bf16 *query, const float *direction, long d) {
    const int block = row / ROWS, r = row % ROWS;
    const float unit = score_unit(d);
    float q[MAX_HEAD_DIM];
    for (long i = 0; i < d; i += LANES) _mm512_storeu_ps(q + i, load_bf16(query + i));
    work->queries_along[row] = take_out(q, direction, d) * unit;
    for (long part = 0; part < d / PART; part++) {
        __m512 x[PART / LANES];
        int8_t rounded[PART];
        int32_t sum;
        for (int i = 0; i < PART / LANES; i++) x[i] = _mm512_loadu_ps(q + part * PART + i * LANES);
        work->query_scales[block][part][r] = quantize(PART / LANES, x, rounded, &sum) * unit;
        work->query_offsets[block][part][r] = -ZERO * sum;
        for (long i = 0; i < PART; i += 4)
            memcpy(work->queries[block][(part * PART + i) / 4] + r, rounded + i, sizeof(int32_t));
    }
}

INLINE ValueScales find_value_scales(const Tile *tile) {
    ValueScales scales;
    UNROLL for (int i = 0; i < STRIPS; i++) {
        const __m512 scale = load_bf16(tile->strips[i].value_scales);
        scales.logarithms[i] = log2_lanes(scale);
        scales.inverses[i] = _mm512_div_ps(_mm512_set1_ps(1.0f), scale);
    }
    return scales;
}

/* Scores of a few rows, while the first rows ask for the next tile's keys. Sums over a part are exact. */
INLINE void score_int8(const int rows, const int is_first, const Work *work, int first_row, const Tile *tile,
                       const Tile *next, const ValueScales *scales, long d, float scores[][TILE]) {
    const int block = first_row / ROWS;
    for (int strip = 0; strip * STRIP < tile->count; strip++) {
        const uint8_t *keys = tile->strips[strip].keys;
        __m512 sums[ROWS];
        const __m512 along = _mm512_loadu_ps(tile->strips[strip].along);
        UNROLL for (int r = 0; r < rows; r++)
            sums[r] = _mm512_fmadd_ps(_mm512_set1_ps(work->queries_along[first_row + r]), along,
                                      scales->logarithms[strip]);
        if (is_first) {
            ask_for(next->strips[strip].along);
            for (long at = 0; at < d / PART; at += 2) ask_for(next->strips[strip].key_scales + at * STRIP);
            ask_for(next->strips[strip].value_scales);
        }
        for (long part = 0; part < d / PART; part++) {
            __m512i acc[ROWS];
            UNROLL for (int r = 0; r < rows; r++) acc[r] = _mm512_set1_epi32(work->query_offsets[block][part][r]);
            for (long at = part * PART / 4; at < (part + 1) * PART / 4; at++) {
                const __m512i k = _mm512_loadu_si512(keys + at * STRIP * 4);
                if (is_first) ask_for(next->strips[strip].keys + at * STRIP * 4);
                UNROLL for (int r = 0; r < rows; r++)
                    acc[r] = add_products_int8_with(acc[r], k, work->queries[block][at] + r);
            }
            const __m512 scale = load_bf16(tile->strips[strip].key_scales + part * STRIP);
            UNROLL for (int r = 0; r < rows; r++) {
                const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[r]), scale);
                sums[r] = _mm512_fmadd_ps(product, _mm512_set1_ps(work->query_scales[block][part][r]), sums[r]);
            }
        }
        UNROLL for (int r = 0; r < rows; r++) _mm512_storeu_ps(scores[r] + strip * LANES, sums[r]);
    }
}

/* Turn the scores of a few rows into weights from 0 to 255, relative to each row's largest score in the tile. */
INLINE void weigh_int8(const int rows, const int sees_all, Work *work, int first_row, float scores[][TILE],
                       long first_key, const ValueScales *scales) {
    const __mmask16 used = (__mmask16)((1u << rows) - 1);
    const __m512 of_tile = note_largest(rows, sees_all, work, first_row, scores, first_key);
    const __m512 zero = _mm512_sub_ps(of_tile, _mm512_set1_ps(LOG2_255)); /* the score with a weight of 1 */
    const __m512 unit = exp2_lanes(_mm512_sub_ps(zero, _mm512_maskz_loadu_ps(used, work->top + first_row)));
    _mm512_mask_storeu_ps(work->unit + first_row, used, unit);
    float zeros[LANES];
    _mm512_storeu_ps(zeros, zero);
    const __m512 round = _mm512_set1_ps(0x1p23f); /* a sum with it has the whole number in its lowest bits */
    for (int r = 0; r < rows; r++) {
        const int row = first_row + r;
        __m512 sum = _mm512_setzero_ps();
        for (int i = 0; i < STRIPS; i++) {
            const __mmask16 seen = seen_keys(sees_all, work, row, first_key + i * LANES);
            const __m512 power = _mm512_sub_ps(_mm512_loadu_ps(scores[r] + i * LANES), _mm512_set1_ps(zeros[r]));
            const __m512 weight = _mm512_maskz_mov_ps(seen, exp2_roughly(power));
            sum = _mm512_mask3_fmadd_ps(weight, scales->inverses[i], sum, seen);
            const __m512i whole = _mm512_castps_si512(_mm512_add_ps(weight, round));
            _mm_storeu_si128((__m128i *)work->weights[row] + i, _mm512_cvtepi32_epi8(whole));
        }
        const __m512 before = _mm512_mul_ps(_mm512_loadu_ps(work->totals[row]), _mm512_set1_ps(work->decay[row]));
        _mm512_storeu_ps(work->totals[row], _mm512_fmadd_ps(sum, _mm512_set1_ps(work->unit[row]), before));
    }
}

/* sums = sums * decay + weights * values, for a few rows and 32 values of the head; the sum over a tile is exact. */
INLINE void add_values_int8(const int rows, const int is_first, Work *work, int first_row, long offset,
                            const Tile *tile, const Tile *next, long d) {
    __m512i acc[ROWS][WIDTH];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < WIDTH; i++) acc[r][i] = _mm512_setzero_si512();
    const uint8_t *weights = (const uint8_t *)work->weights[first_row];
    for (long key = 0; key < tile->count; key += 4) {
        const long strip = key / STRIP, at = key % STRIP * d + offset * 4;
        __m512i v[WIDTH];
        UNROLL for (int i = 0; i < WIDTH; i++) {
            v[i] = _mm512_loadu_si512(tile->strips[strip].values + at + i * 64);
            if (is_first) ask_for(next->strips[strip].values + at + i * 64);
        }
        UNROLL for (int r = 0; r < rows; r++) {
            const __m512i weight = four_bytes_everywhere(weights + r * TILE * 2 + key);
            UNROLL for (int i = 0; i < WIDTH; i++) acc[r][i] = add_products_int8(acc[r][i], weight, v[i]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        const __m512 decay = _mm512_set1_ps(work->decay[first_row + r]);
        const __m512 unit = _mm512_set1_ps(work->unit[first_row + r]);
        UNROLL for (int i = 0; i < WIDTH; i++) {
            float *to = work->sums[first_row + r] + offset + i * LANES;
            const __m512 before = _mm512_mul_ps(_mm512_loadu_ps(to), decay);
            _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r][i]), unit, before));
        }
    }
}

INLINE void take_int8_rows(const int rows, const int is_first, Work *work, int row, const Tile *tile, const Tile *next,
                           const ValueScales *scales, long first_key, long d) {
    float scores[ROWS][TILE];
    score_int8(rows, is_first, work, row, tile, next, scales, d, scores);
    if (work->limits[row] - first_key >= TILE) weigh_int8(rows, 1, work, row, scores, first_key, scales);
    else weigh_int8(rows, 0, work, row, scores, first_key, scales);
    for (long offset = 0; offset < d; offset += WIDTH * LANES)
        add_values_int8(rows, is_first, work, row, offset, tile, next, d);
}

#endif
