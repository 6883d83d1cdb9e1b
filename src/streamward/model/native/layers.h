/* A decoder's steps, each of which the threads of a parallel region share; and their plans for one step of the engine. */
#ifndef STREAMWARD_LAYERS_H
#define STREAMWARD_LAYERS_H

#include "cache.h"
#include "linear.h"

typedef struct {
    long num_heads;
    float eps;
    CacheShape cache;
    const float *cosines, *sines;     /* [positions, head_dim / 2] */
    const int64_t *positions, *slots; /* one for each row */
} RotatePlan;

typedef struct {
    int32_t first_row, num_tokens; /* new tokens: rows of q */
    int32_t num_keys;              /* tokens its last new token sees */
    int32_t first_page;            /* of its stream, in the table of pages */
} Item;

typedef struct {
    long num_heads, num_items;
    CacheShape cache;
    const Item *items;
    const int32_t *pages;
} AttendPlan;

void streamward_norm_pack(const Linear *reader, const float *x, const bf16 *weight, float eps, const Operand *out,
                          long rows);
void streamward_norm(const float *x, const bf16 *weight, float eps, bf16 *out, long rows, long size);
void streamward_rotate_store(const RotatePlan *plan, const float *qkv, const bf16 *q_weight, const bf16 *k_weight,
                             const float *usual_keys, const float *directions, bf16 *q, uint8_t *cache, long rows);
void streamward_attend(const AttendPlan *plan, const Linear *reader, const bf16 *q, const float *directions,
                       uint8_t *cache, const Operand *out, long rows);

#endif
