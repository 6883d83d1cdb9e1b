#ifndef STREAMWARD_ROPE_TABLE_H
#define STREAMWARD_ROPE_TABLE_H

#include <stdint.h>

void streamward_fill_rope_table(double theta, int64_t head_dim, int64_t num_positions, float *cosines, float *sines);

#endif
