/* What is called from outside: each function takes the number of a unit. Compiled for the baseline. */
#include "cpu.h"
#include "pool.h"
#include "rope_table.h"
#include "unit.h"

#include <stddef.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

extern const Unit streamward_unit_scalar, streamward_unit_avx2, streamward_unit_avxvnni, streamward_unit_avx512vnni,
    streamward_unit_avx512bf16, streamward_unit_dotprod, streamward_unit_i8mm;

typedef struct {
    const Unit *unit;
    int feature; /* that it needs */
} Choice;

/* Slowest first. */
static const Choice choices[] = {
    {&streamward_unit_scalar, 0},
#if defined(__x86_64__)
    {&streamward_unit_avx2, CPU_AVX2},
    {&streamward_unit_avxvnni, CPU_AVXVNNI},
    {&streamward_unit_avx512vnni, CPU_AVX512VNNI},
    {&streamward_unit_avx512bf16, CPU_AVX512BF16},
#elif defined(__aarch64__)
    {&streamward_unit_dotprod, CPU_DOTPROD},
    {&streamward_unit_i8mm, CPU_I8MM},
#endif
};

EXPORT int64_t streamward_structs_version(void) { return STRUCTS_VERSION; }
EXPORT int64_t streamward_num_units(void) { return (int64_t)(sizeof(choices) / sizeof(choices[0])); }
EXPORT const char *streamward_unit_name(int64_t unit) { return choices[unit].unit->name; }
EXPORT int64_t streamward_is_unit_supported(int64_t unit) {
    const int feature = choices[unit].feature;
    return !feature || (streamward_cpu_features() & feature) != 0;
}

void streamward_want_threads(int64_t count);
int64_t streamward_wanted_threads(void);
EXPORT void streamward_set_num_threads(int64_t count) { streamward_want_threads(count); }
EXPORT int64_t streamward_get_num_threads(void) { return streamward_wanted_threads(); }

EXPORT void streamward_rope_table(double theta, int64_t head_dim, int64_t num_positions, float *cosines, float *sines) {
    streamward_pool_enter();
    streamward_fill_rope_table(theta, head_dim, num_positions, cosines, sines);
    streamward_pool_leave();
}

EXPORT void streamward_decode(int64_t unit, const Decoder *decoder, const Step *step, const Buffers *buffers) {
    streamward_pool_enter();
    choices[unit].unit->decode(decoder, step, buffers);
    streamward_pool_leave();
}

EXPORT void streamward_linear(int64_t unit, const Linear *linear, const float *x, const Operand *operand, float *out,
                              int64_t rows) {
    streamward_pool_enter();
    choices[unit].unit->linear(linear, x, operand, out, rows);
    streamward_pool_leave();
}

EXPORT void streamward_heads(int64_t unit, const Linear *pre, const Linear *out, const float *norm, float eps,
                             const float *hidden, const Operand *operand, float *inner, float *logits, int64_t rows) {
    streamward_pool_enter();
    choices[unit].unit->heads(pre, out, norm, eps, hidden, operand, inner, logits, rows);
    streamward_pool_leave();
}

EXPORT void streamward_softmax(int64_t unit, const float *x, float *out, int64_t rows, int64_t size) {
    streamward_pool_enter();
    choices[unit].unit->softmax(x, out, rows, size);
    streamward_pool_leave();
}

EXPORT void streamward_pack_weight(int64_t unit, const Linear *target, const void *source, const bf16 *scales,
                                   int64_t first_output, int64_t source_outputs, int64_t is_gated) {
    streamward_pool_enter();
    choices[unit].unit->pack_weight(target, source, scales, first_output, source_outputs, is_gated);
    streamward_pool_leave();
}

EXPORT void streamward_quantize_weight(int64_t unit, const void *weight, int64_t is_bf16, int64_t outputs, int64_t inputs,
                                       int8_t *values, bf16 *scales) {
    streamward_pool_enter();
    choices[unit].unit->quantize_weight(weight, is_bf16, outputs, inputs, values, scales);
    streamward_pool_leave();
}

EXPORT void streamward_dequantize_weight(int64_t unit, const int8_t *values, const bf16 *scales, int64_t outputs,
                                         int64_t inputs, float *out) {
    streamward_pool_enter();
    choices[unit].unit->dequantize_weight(values, scales, outputs, inputs, out);
    streamward_pool_leave();
}

EXPORT void streamward_round_bf16(int64_t unit, const float *x, bf16 *out, int64_t count) {
    streamward_pool_enter();
    choices[unit].unit->round_bf16(x, out, count);
    streamward_pool_leave();
}

/* Many products of activations that are packed already, as in a layer of which the weights lie in cache. */
EXPORT void streamward_multiply(int64_t unit, const Linear *linear, const Operand *operand, float *out, int64_t rows,
                                int64_t target) {
    streamward_pool_enter();
    choices[unit].unit->multiply_once(linear, operand, out, rows, target);
    streamward_pool_leave();
}
