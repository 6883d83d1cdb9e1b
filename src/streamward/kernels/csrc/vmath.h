/* Functions of sixteen lanes, the same bits on all units: polynomials of FMA, no call of the C library. */
#ifndef STREAMWARD_VMATH_H
#define STREAMWARD_VMATH_H

#define LOG2_E 1.44269504f

INLINE vf vf_poly(vf f, const int count, const float *coefficients) {
    vf y = vf_set1(coefficients[0]);
    UNROLL for (int i = 1; i < count; i++) y = vf_fma(y, f, vf_set1(coefficients[i]));
    return y;
}

/*
 * 2^x for x <= 127, within 2e-7 of its value: Taylor's polynomial of 2^f for f in [-1/2, 1/2]. Below -126 as at -126. NaN
 * stays NaN, which tells that a guard is damaged.
 */
INLINE vf vf_exp2(vf x) {
    static const float taylor[] = {1.5403530e-4f, 1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f,
                                   2.4022651e-1f, 6.9314718e-1f, 1.0f};
    x = vf_max(vf_set1(-126.0f), x);
    const vf whole = vf_round(x);
    return vf_scale2(vf_poly(vf_sub(x, whole), 7, taylor), whole);
}

/* The same within 4e-6: a polynomial through Chebyshev's nodes. */
INLINE vf vf_exp2_roughly(vf x) {
    static const float chebyshev[] = {9.6760371e-3f, 5.5922036e-2f, 2.4022107e-1f, 6.9312103e-1f, 1.0f};
    x = vf_max(vf_set1(-126.0f), x);
    const vf whole = vf_round(x);
    return vf_scale2(vf_poly(vf_sub(x, whole), 5, chebyshev), whole);
}

/* log2(x) for a normal x > 0, within 2e-5: the exponent, and a polynomial through Chebyshev's nodes of [1, 2]. */
INLINE vf vf_log2(vf x) {
    static const float chebyshev[] = {4.3004958e-2f,  -1.8748860e-1f, 4.0947030e-1f,
                                      -7.0648645e-1f, 1.4414924f,     1.6514671e-5f};
    const vi bits = vf_bits(x);
    const vf exponent = vi_to_float(vi_sub(vi_shift_right(bits, 23), vi_set1(127)));
    const vi mantissa = vi_or(vi_and(bits, vi_set1(0x007fffff)), vi_set1(0x3f800000));
    return vf_add(exponent, vf_poly(vf_sub(vi_as_float(mantissa), vf_set1(1.0f)), 6, chebyshev));
}

/* x / (1 + 2^power): x times the logistic function of -power ln 2. */
INLINE vf vf_logistic(vf x, vf power) {
    return vf_div(x, vf_add(vf_set1(1.0f), vf_exp2(vf_min(vf_set1(126.0f), power))));
}

INLINE vf vf_silu(vf x) { return vf_logistic(x, vf_mul(x, vf_set1(-LOG2_E))); }

/* GELU by tanh: x / 2 (1 + tanh u) = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks, arXiv 1606.08415). */
INLINE vf vf_gelu_tanh(vf x) {
    const vf cubic = vf_fma(vf_mul(x, x), vf_set1(-2.0f * LOG2_E * 0.79788456f * 0.044715f),
                            vf_set1(-2.0f * LOG2_E * 0.79788456f));
    return vf_logistic(x, vf_mul(x, cubic));
}

#endif
