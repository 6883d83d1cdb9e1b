/*
 * Cosines and sines of rotary embeddings, in double arithmetic of our own: no call of the C library, whose last bits differ
 * from machine to machine. Frequencies and angles are rounded to float32 as where models are trained.
 */
#include "pool.h"
#include "rope_table.h"

#include <string.h>

static double double_of_bits(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* log2(x) for a normal x > 0: the exponent, and 2 atanh((m - 1) / (m + 1)) / ln 2 of the rest m in [0.7, 1.42]. */
static double log2_of(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof(bits));
    int64_t exponent = (int64_t)(bits >> 52) - 1023;
    double m = double_of_bits((bits & 0x000fffffffffffffull) | 0x3ff0000000000000ull);
    if (m > 1.4142135623730951) {
        m = m * 0.5;
        exponent += 1;
    }
    const double z = (m - 1.0) / (m + 1.0), square = z * z;
    double sum = 0.0;
    for (int i = 27; i >= 1; i -= 2) sum = sum * square + 1.0 / (double)i;
    return (double)exponent + 2.0 * z * sum * 1.4426950408889634;
}

/* 2^x for -1000 < x < 1000: Taylor's series of e^(f ln 2), f in [-1/2, 1/2]. */
static double exp2_of(double x) {
    const int64_t whole = (int64_t)(x < 0.0 ? x - 0.5 : x + 0.5);
    const double f = (x - (double)whole) * 0.6931471805599453;
    double sum = 1.0;
    for (int i = 18; i >= 1; i--) sum = 1.0 + sum * f / (double)i;
    return sum * double_of_bits((uint64_t)(whole + 1023) << 52);
}

#define HALF_PI_HIGH 1.57079632673412561417 /* the first 33 bits of pi / 2: times a quarter turn's number it is exact */
#define HALF_PI_LOW 6.07710050650619224932e-11

/* Cosine and sine of 0 <= x < 2^20: quarter turns are taken off, then Taylor's series within pi / 4. */
static void cos_sin_of(double x, float *cosine, float *sine) {
    const int64_t quarter = (int64_t)(x * 0.63661977236758134 + 0.5);
    const double r = (x - (double)quarter * HALF_PI_HIGH) - (double)quarter * HALF_PI_LOW, square = r * r;
    double c = 1.0, s = 1.0;
    for (int i = 18; i >= 2; i -= 2) {
        c = 1.0 - c * square / (double)(i * (i - 1));
        s = 1.0 - s * square / (double)(i * (i + 1));
    }
    s = s * r;
    const double cosines[4] = {c, -s, -c, s}, sines[4] = {s, c, -s, -c};
    *cosine = (float)cosines[quarter & 3];
    *sine = (float)sines[quarter & 3];
}

typedef struct {
    const float *frequencies;
    int64_t half;
    float *cosines, *sines;
} RopePhase;

static void rope_items(const void *context, int64_t begin, int64_t end) {
    const RopePhase *p = (const RopePhase *)context;
    for (int64_t position = begin; position < end; position++)
        for (int64_t i = 0; i < p->half; i++) {
            const float angle = (float)position * p->frequencies[i];
            const int64_t at = position * p->half + i;
            cos_sin_of((double)angle, p->cosines + at, p->sines + at);
        }
}

/* cosines, sines [num_positions, head_dim / 2] for a head_dim of at most 256 and fewer than 2^20 positions. */
void streamward_fill_rope_table(double theta, int64_t head_dim, int64_t num_positions, float *cosines, float *sines) {
    float frequencies[128];
    const double octaves = log2_of(theta);
    for (int64_t i = 0; i < head_dim / 2; i++)
        frequencies[i] = (float)exp2_of(-octaves * (double)(2 * i) / (double)head_dim);
    const RopePhase phase = {frequencies, head_dim / 2, cosines, sines};
    streamward_parallel_for(rope_items, &phase, num_positions, 64, CONTIGUOUS);
}
