/* What attention keeps of a few query rows while it goes through the keys of a stream, tile by tile. */
#ifndef STREAMWARD_ATTEND_ROWS_H
#define STREAMWARD_ATTEND_ROWS_H

#include "layers.h"

#include <math.h>
#include <string.h>

#define TILE 64        /* keys taken together */
#define STRIPS (TILE / STRIP)
#define MAX_ROWS 64    /* query rows of one item */
#define ROWS 12        /* query rows computed together */
#define PADDED_ROWS 72 /* the next multiple */
#define BLOCKS (PADDED_ROWS / ROWS)
#define WIDTH 2        /* registers for each of those rows */
#define MAX_PARTS (MAX_HEAD_DIM / PART)

/* Of each row, or of each block of rows that are computed together. */
typedef struct {
    int32_t queries[BLOCKS][MAX_HEAD_DIM / 2][ROWS]; /* pairs of bfloat16, or fours of 8 bits */
    float query_scales[BLOCKS][MAX_PARTS][ROWS];     /* of 8 bits, as are the next two */
    int32_t query_offsets[BLOCKS][MAX_PARTS][ROWS];  /* what the 128 in every key adds to a product, negative */
    float queries_along[PADDED_ROWS];                /* what was taken out of them; see cache.h */
    uint16_t weights[PADDED_ROWS][TILE];             /* bfloat16; or bytes, in the first half of a row */
    float sums[PADDED_ROWS][MAX_HEAD_DIM];
    float decay[PADDED_ROWS], unit[PADDED_ROWS];     /* what sums so far and a weight of 1 count; units are of 8 bits */
    float top[PADDED_ROWS];                          /* the largest score so far; scores are powers of two */
    float totals[PADDED_ROWS][LANES];                /* of the weights, in parts */
    int32_t limits[PADDED_ROWS];                     /* keys each row sees */
} Work;

/* Successive strips of one key head, up to 64 keys. */
typedef struct {
    Strip strips[STRIPS];
    long count;
} Tile;

INLINE void ask_for(const void *source) { _mm_prefetch((const char *)source, _MM_HINT_T1); }

/* What products of queries and keys are multiplied with: scores are powers of two, not of e. */
INLINE float score_unit(long d) { return 1.44269504f / sqrtf((float)d); }

/* Which of sixteen keys a row sees. */
INLINE __mmask16 seen_keys(const int sees_all, const Work *work, int row, long first_key) {
    if (sees_all) return 0xffff;
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_cmplt_epi32_mask(lanes, _mm512_set1_epi32(work->limits[row] - (int32_t)first_key));
}

/* Lane r is the largest of x[r]; the lanes behind `rows` are of the first. */
INLINE __m512 largest_of_rows(const int rows, const __m512 *x) {
    __m512 of_2[8], of_4[4], of_8[2];
    UNROLL for (int i = 0; i < 8; i++) {
        const __m512 left = x[2 * i < rows ? 2 * i : 0], right = x[2 * i + 1 < rows ? 2 * i + 1 : 0];
        of_2[i] = _mm512_max_ps(_mm512_unpacklo_ps(left, right), _mm512_unpackhi_ps(left, right));
    }
    UNROLL for (int i = 0; i < 4; i++) {
        const __m512d left = _mm512_castps_pd(of_2[2 * i]), right = _mm512_castps_pd(of_2[2 * i + 1]);
        const __m512d low = _mm512_unpacklo_pd(left, right), high = _mm512_unpackhi_pd(left, right);
        of_4[i] = _mm512_max_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    }
    UNROLL for (int i = 0; i < 2; i++) {
        const __m512 left = of_4[2 * i], right = of_4[2 * i + 1];
        of_8[i] = _mm512_max_ps(_mm512_shuffle_f32x4(left, right, 0x44), _mm512_shuffle_f32x4(left, right, 0xee));
    }
    return _mm512_max_ps(_mm512_shuffle_f32x4(of_8[0], of_8[1], 0x88), _mm512_shuffle_f32x4(of_8[0], of_8[1], 0xdd));
}

/* Note the largest score of a tile for each of a few rows, and what it does to sums of tiles before. Return it. */
INLINE __m512 note_largest(const int rows, const int sees_all, Work *work, int first_row, float scores[][TILE],
                           long first_key) {
    __m512 tops[ROWS];
    UNROLL for (int r = 0; r < rows; r++) {
        tops[r] = _mm512_set1_ps(-INFINITY);
        UNROLL for (int i = 0; i < STRIPS; i++) {
            const __mmask16 seen = seen_keys(sees_all, work, first_row + r, first_key + i * LANES);
            tops[r] = _mm512_mask_max_ps(tops[r], seen, tops[r], _mm512_loadu_ps(scores[r] + i * LANES));
        }
    }
    const __m512 of_tile = largest_of_rows(rows, tops);
    const __mmask16 used = (__mmask16)((1u << rows) - 1);
    const __m512 before = _mm512_maskz_loadu_ps(used, work->top + first_row), top = _mm512_max_ps(before, of_tile);
    _mm512_mask_storeu_ps(work->decay + first_row, used, exp2_lanes(_mm512_sub_ps(before, top)));
    _mm512_mask_storeu_ps(work->top + first_row, used, top);
    return of_tile;
}

#endif
