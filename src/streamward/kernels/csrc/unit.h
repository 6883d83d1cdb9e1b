/* What each unit offers the dispatcher. */
#ifndef STREAMWARD_UNIT_H
#define STREAMWARD_UNIT_H

#include "types.h"

typedef struct {
    const char *name;
    void (*decode)(const Decoder *, const Step *, const Buffers *);
    void (*linear)(const Linear *, const float *, const Operand *, float *, int64_t);
    void (*heads)(const Linear *, const Linear *, const float *, float, const float *, const Operand *, float *, float *,
                  int64_t);
    void (*softmax)(const float *, float *, int64_t, int64_t);
    void (*pack_weight)(const Linear *, const void *, const bf16 *, int64_t, int64_t, int64_t);
    void (*quantize_weight)(const void *, int64_t, int64_t, int64_t, int8_t *, bf16 *);
    void (*dequantize_weight)(const int8_t *, const bf16 *, int64_t, int64_t, float *);
    void (*round_bf16)(const float *, bf16 *, int64_t);
    void (*multiply_once)(const Linear *, const Operand *, float *, int64_t, int64_t);
} Unit;

#endif
