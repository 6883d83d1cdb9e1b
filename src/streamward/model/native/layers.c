/* The parts of a decoder layer between its linear projections, each in one pass over memory. bfloat16 in and out. */
#if defined(__x86_64__)

#include "lanes.h"

#include <math.h>
#include <string.h>

#define PARALLEL_SIZE 65536 /* below this many values a second thread costs more than it saves */

/* Whether this CPU has the instructions. */
int streamward_is_supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}

INLINE float inverse_rms(const bf16 *x, long size, float eps) {
    __m512 sum = _mm512_setzero_ps();
    for (long i = 0; i < size; i += LANES) {
        __m512 lanes = load_bf16(x + i);
        sum = _mm512_fmadd_ps(lanes, lanes, sum);
    }
    return 1.0f / sqrtf(_mm512_reduce_add_ps(sum) / (float)size + eps);
}

INLINE void norm_row(const bf16 *x, const bf16 *weight, bf16 *out, long size, float eps) {
    __m512 factor = _mm512_set1_ps(inverse_rms(x, size, eps));
    for (long i = 0; i < size; i += LANES)
        store_bf16(out + i, _mm512_mul_ps(_mm512_mul_ps(load_bf16(x + i), factor), load_bf16(weight + i)));
}

/* hidden += delta (unless NULL), then out = RMSNorm(hidden) * weight. [rows, size] each; size a multiple of 16. */
void streamward_add_norm(bf16 *hidden, const bf16 *delta, const bf16 *weight, bf16 *out, long rows, long size,
                         float eps) {
#pragma omp parallel for if (rows * size > PARALLEL_SIZE)
    for (long row = 0; row < rows; row++) {
        bf16 *x = hidden + row * size;
        for (long i = 0; delta && i < size; i += LANES)
            store_bf16(x + i, _mm512_add_ps(load_bf16(x + i), load_bf16(delta + row * size + i)));
        norm_row(x, weight, out + row * size, size, eps);
    }
}

/* out = silu(gate) * up, with gate and up side by side in [rows, 2 size]. */
void streamward_silu_mul(const bf16 *gate_up, bf16 *out, long rows, long size) {
    const __m512 one = _mm512_set1_ps(1.0f), minus_log2e = _mm512_set1_ps(-1.44269504f);
    const __m512 largest = _mm512_set1_ps(126.0f);
#pragma omp parallel for if (rows * size > PARALLEL_SIZE)
    for (long row = 0; row < rows; row++) {
        const bf16 *gate = gate_up + 2 * row * size, *up = gate + size;
        for (long i = 0; i < size; i += LANES) {
            __m512 x = load_bf16(gate + i);
            __m512 power = exp2_lanes(_mm512_min_ps(largest, _mm512_mul_ps(x, minus_log2e)));
            __m512 y = _mm512_div_ps(x, _mm512_add_ps(one, power));
            store_bf16(out + row * size + i, _mm512_mul_ps(y, load_bf16(up + i)));
        }
    }
}

/* RMSNorm one head (unless weight is NULL) and rotate its halves by the angles of its position. */
INLINE void rotate_head(const bf16 *x, const bf16 *weight, const float *cosines, const float *sines, bf16 *out,
                        long size, float eps) {
    const __m512 factor = _mm512_set1_ps(weight ? inverse_rms(x, size, eps) : 1.0f);
    const long half = size / 2;
    for (long i = 0; i < half; i += LANES) {
        __m512 left = load_bf16(x + i), right = load_bf16(x + half + i);
        if (weight) {
            left = _mm512_mul_ps(_mm512_mul_ps(left, factor), load_bf16(weight + i));
            right = _mm512_mul_ps(_mm512_mul_ps(right, factor), load_bf16(weight + half + i));
        }
        __m512 c = _mm512_loadu_ps(cosines + i), s = _mm512_loadu_ps(sines + i);
        store_bf16(out + i, _mm512_fmsub_ps(left, c, _mm512_mul_ps(right, s)));
        store_bf16(out + half + i, _mm512_fmadd_ps(right, c, _mm512_mul_ps(left, s)));
    }
}

typedef struct {
    long num_heads, num_kv_heads, head_dim, num_slots;
    float eps;
    const float *cosines, *sines; /* [positions, head_dim / 2] */
    const int64_t *positions, *slots; /* one for each row */
} RotatePlan;

/* Norm and rotate queries and keys; queries go to q [rows, H, d], keys and values to their slots of [K, S, d]. */
void streamward_rotate_store(const RotatePlan *plan, const bf16 *qkv, const bf16 *q_weight, const bf16 *k_weight,
                             bf16 *q, bf16 *keys, bf16 *values, long rows) {
    const long d = plan->head_dim, num_q = plan->num_heads, num_kv = plan->num_kv_heads;
    const long width = (num_q + 2 * num_kv) * d;
#pragma omp parallel for if (rows * width > PARALLEL_SIZE)
    for (long row = 0; row < rows; row++) {
        const bf16 *x = qkv + row * width;
        const float *cosines = plan->cosines + plan->positions[row] * (d / 2);
        const float *sines = plan->sines + plan->positions[row] * (d / 2);
        for (long head = 0; head < num_q; head++)
            rotate_head(x + head * d, q_weight, cosines, sines, q + (row * num_q + head) * d, d, plan->eps);
        for (long head = 0; head < num_kv; head++) {
            const bf16 *key = x + (num_q + head) * d, *value = key + num_kv * d;
            const long at = (head * plan->num_slots + plan->slots[row]) * d;
            rotate_head(key, k_weight, cosines, sines, keys + at, d, plan->eps);
            memcpy(values + at, value, d * sizeof(bf16));
        }
    }
}

#else

int streamward_is_supported(void) { return 0; }

#endif
