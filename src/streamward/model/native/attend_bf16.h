/* Attention to one tile of keys and values in bfloat16. */
#ifndef STREAMWARD_ATTEND_BF16_H
#define STREAMWARD_ATTEND_BF16_H

#include "attend_rows.h"

INLINE void pack_bf16_query(Work *work, int row, const bf16 *query, long d) {
    for (long at = 0; at < d / 2; at++)
        memcpy(work->queries[row / ROWS][at] + row % ROWS, query + at * 2, sizeof(int32_t));
}

/* Products of a few rows with a tile's keys, while the first rows ask for the next tile's. */
INLINE void score_bf16(const int rows, const int is_first, const int32_t (*queries)[ROWS], const Tile *tile,
                       const Tile *next, long d, float scores[][TILE]) {
    const __m512 scale = _mm512_set1_ps(score_unit(d));
    for (int strip = 0; strip * STRIP < tile->count; strip += WIDTH) {
        __m512 sums[ROWS][WIDTH];
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < WIDTH; i++) sums[r][i] = _mm512_setzero_ps();
        for (long at = 0; at < d / 2; at++) {
            __m512i k[WIDTH];
            UNROLL for (int i = 0; i < WIDTH; i++) {
                k[i] = _mm512_loadu_si512(tile->strips[strip + i].keys + at * STRIP * 4);
                if (is_first) ask_for(next->strips[strip + i].keys + at * STRIP * 4);
            }
            UNROLL for (int r = 0; r < rows; r++) {
                const __m512i q = four_bytes_everywhere(queries[at] + r);
                UNROLL for (int i = 0; i < WIDTH; i++) sums[r][i] = add_products_bf16(sums[r][i], k[i], q);
            }
        }
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int i = 0; i < WIDTH; i++)
                _mm512_storeu_ps(scores[r] + (strip + i) * LANES, _mm512_mul_ps(sums[r][i], scale));
    }
}

/* Turn the scores of a few rows into weights relative to each row's largest score so far. */
INLINE void weigh_bf16(const int rows, const int sees_all, Work *work, int first_row, float scores[][TILE],
                       long first_key) {
    note_largest(rows, sees_all, work, first_row, scores, first_key);
    for (int r = 0; r < rows; r++) {
        const int row = first_row + r;
        const __m512 top = _mm512_set1_ps(work->top[row]), decay = _mm512_set1_ps(work->decay[row]);
        __m512 sum = _mm512_setzero_ps();
        for (int i = 0; i < STRIPS; i++) {
            const __mmask16 seen = seen_keys(sees_all, work, row, first_key + i * LANES);
            const __m512 power = _mm512_sub_ps(_mm512_loadu_ps(scores[r] + i * LANES), top);
            const __m512 weight = _mm512_maskz_mov_ps(seen, exp2_roughly(power));
            sum = _mm512_add_ps(sum, weight);
            store_bf16(work->weights[row] + i * LANES, weight);
        }
        _mm512_storeu_ps(work->totals[row], _mm512_fmadd_ps(_mm512_loadu_ps(work->totals[row]), decay, sum));
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
    const uint16_t *weights = work->weights[first_row];
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
            const __m512i weight = four_bytes_everywhere(weights + r * TILE + key);
            UNROLL for (int i = 0; i < WIDTH; i++) sums[r][i] = add_products_bf16(sums[r][i], v[i], weight);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < WIDTH; i++)
            _mm512_storeu_ps(work->sums[first_row + r] + offset + i * LANES, sums[r][i]);
}

INLINE void take_bf16_rows(const int rows, const int is_first, Work *work, int row, const Tile *tile, const Tile *next,
                           long first_key, long d) {
    float scores[ROWS][TILE];
    score_bf16(rows, is_first, work->queries[row / ROWS], tile, next, d, scores);
    if (work->limits[row] - first_key >= TILE) weigh_bf16(rows, 1, work, row, scores, first_key);
    else weigh_bf16(rows, 0, work, row, scores, first_key);
    for (long offset = 0; offset < d; offset += WIDTH * LANES)
        add_values_bf16(rows, is_first, work, row, offset, tile, next, d);
}

#endif
