/* The products of one group by instructions that multiply 2 x 8 with 8 x 2 bytes: two tokens with two outputs. */
INLINE int8x16_t two_rows(const int8_t *first, const int8_t *second) {
    return vcombine_s8(vld1_s8(first), vld1_s8(second));
}

INLINE int32x4_t of_row(int32x4_t left, int32x4_t right, const int row) {
    const int64x2_t l = vreinterpretq_s64_s32(left), r = vreinterpretq_s64_s32(right);
    return vreinterpretq_s32_s64(row ? vzip2q_s64(l, r) : vzip1q_s64(l, r));
}

INLINE void multiply_group(const int rows, const uint8_t *weights, const Request *request, const int8_t *values,
                           vi (*acc)[PANEL_LANES]) {
    int32x4_t sums[(ROWS_INT8 + 1) / 2][8]; /* of two tokens and two outputs: (0, 0), (0, 1), (1, 0), (1, 1) */
    UNROLL for (int pair = 0; pair < (rows + 1) / 2; pair++)
        UNROLL for (int i = 0; i < 8; i++) sums[pair][i] = vdupq_n_s32(0);
    for (int eight = 0; eight < GROUP / 8; eight++) {
        int8x16_t x[(ROWS_INT8 + 1) / 2];
        UNROLL for (int pair = 0; pair < (rows + 1) / 2; pair++) { /* the last row stands in for one that is not there */
            const int8_t *first = values + pair * 2 * GROUP + eight * 8;
            x[pair] = two_rows(first, first + (pair * 2 + 1 < rows ? GROUP : 0));
        }
        if (eight * 128 < request->bytes) {
            prefetch(request->next + eight * 128);
            prefetch(request->next + eight * 128 + 64);
        }
        UNROLL for (int i = 0; i < 8; i++) {
            const int8x16_t w = vld1q_s8((const int8_t *)weights + eight * 128 + i * 16);
            UNROLL for (int pair = 0; pair < (rows + 1) / 2; pair++) sums[pair][i] = vmmlaq_s32(sums[pair][i], x[pair], w);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        const int32x4_t *of = sums[r / 2];
        acc[r][0] = (vi){of_row(of[0], of[1], r % 2), of_row(of[2], of[3], r % 2), of_row(of[4], of[5], r % 2),
                         of_row(of[6], of[7], r % 2)};
    }
}
