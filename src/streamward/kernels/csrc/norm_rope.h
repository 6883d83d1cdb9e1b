/* The parts of a decoder layer between its linear layers: see norm_rope.c. */
#ifndef STREAMWARD_NORM_ROPE_H
#define STREAMWARD_NORM_ROPE_H

#include "cache.h"
#include "linear.h"

static void norm_pack(const Linear *reader, const float *x, const float *weight, float eps, const Operand *out,
                      int64_t rows);
static void norm_rows(const float *x, const float *weight, float eps, float *out, int64_t rows, int64_t size, int adds);
static void rotate_store(const Decoder *decoder, const Layer *layer, const Step *step, const float *qkv, float *q);

#endif
