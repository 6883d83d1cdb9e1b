/* The parts of a decoder layer between its linear layers. Inside a parallel region its threads share the work. */
#if defined(__x86_64__)

#include "layers.h"

#include <math.h>

/* Whether this CPU has the instructions. */
int streamward_is_supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}

INLINE __m512 inverse_rms(const float *x, long size, float eps) {
    __m512 sum = _mm512_setzero_ps();
    for (long i = 0; i < size; i += LANES) {
        const __m512 lanes = _mm512_loadu_ps(x + i);
        sum = _mm512_fmadd_ps(lanes, lanes, sum);
    }
    return _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(sum) / (float)size + eps));
}

/* Pack RMSNorm(x) * weight for the layer that reads it. x [rows, inputs]. */
void streamward_norm_pack(const Linear *reader, const float *x, const bf16 *weight, float eps, const Operand *out,
                          long rows) {
    const long size = reader->num_inputs;
#pragma omp for schedule(static)
    for (long row = 0; row < rows; row++) {
        const float *from = x + row * size;
        const __m512 factor = inverse_rms(from, size, eps);
        for (long group = 0; group < size / GROUP; group++) {
            __m512 lanes[GROUP_LANES];
            for (int i = 0; i < GROUP_LANES; i++) {
                const long at = group * GROUP + i * LANES;
                lanes[i] = _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(from + at), factor), load_bf16(weight + at));
            }
            put_group(reader, out, rows, row, group, lanes);
        }
    }
}

/* out = RMSNorm(x) * weight, [rows, size] both. */
void streamward_norm(const float *x, const bf16 *weight, float eps, bf16 *out, long rows, long size) {
#pragma omp for schedule(static)
    for (long row = 0; row < rows; row++) {
        const __m512 factor = inverse_rms(x + row * size, size, eps);
        for (long i = 0; i < size; i += LANES) {
            const __m512 lanes = _mm512_mul_ps(_mm512_loadu_ps(x + row * size + i), factor);
            store_bf16(out + row * size + i, _mm512_mul_ps(lanes, load_bf16(weight + i)));
        }
    }
}

/* RMSNorm one head (unless weight is NULL) and rotate its halves by the angles of its position. */
INLINE void rotate_head(const float *x, const bf16 *weight, const float *cosines, const float *sines, bf16 *out,
                        long size, float eps) {
    const __m512 factor = weight ? inverse_rms(x, size, eps) : _mm512_set1_ps(1.0f);
    const long half = size / 2;
    for (long i = 0; i < half; i += LANES) {
        __m512 left = _mm512_loadu_ps(x + i), right = _mm512_loadu_ps(x + half + i);
        if (weight) {
            left = _mm512_mul_ps(_mm512_mul_ps(left, factor), load_bf16(weight + i));
            right = _mm512_mul_ps(_mm512_mul_ps(right, factor), load_bf16(weight + half + i));
        }
        const __m512 c = _mm512_loadu_ps(cosines + i), s = _mm512_loadu_ps(sines + i);
        store_bf16(out + i, _mm512_fmsub_ps(left, c, _mm512_mul_ps(right, s)));
        store_bf16(out + half + i, _mm512_fmadd_ps(right, c, _mm512_mul_ps(left, s)));
    }
}

/* Norm and rotate queries and keys; queries go to q [rows, H, d], keys and values to their slots of [K, S, d]. */
void streamward_rotate_store(const RotatePlan *plan, const float *qkv, const bf16 *q_weight, const bf16 *k_weight,
                             bf16 *q, bf16 *keys, bf16 *values, long rows) {
    const long d = plan->head_dim, num_q = plan->num_heads, num_kv = plan->num_kv_heads;
#pragma omp for schedule(static)
    for (long row = 0; row < rows; row++) {
        const float *x = qkv + row * (num_q + 2 * num_kv) * d;
        const float *cosines = plan->cosines + plan->positions[row] * (d / 2);
        const float *sines = plan->sines + plan->positions[row] * (d / 2);
        for (long head = 0; head < num_q; head++)
            rotate_head(x + head * d, q_weight, cosines, sines, q + (row * num_q + head) * d, d, plan->eps);
        for (long head = 0; head < num_kv; head++) {
            const float *key = x + (num_q + head) * d, *value = key + num_kv * d;
            const long at = (head * plan->num_slots + plan->slots[row]) * d;
            rotate_head(key, k_weight, cosines, sines, keys + at, d, plan->eps);
            for (long i = 0; i < d; i += LANES) store_bf16(values + at + i, _mm512_loadu_ps(value + i));
        }
    }
}

#endif
