/* One pool of threads for the whole process; see pool.c. */
#ifndef STREAMWARD_POOL_H
#define STREAMWARD_POOL_H

#include <stdint.h>

/* Does items begin to end - 1 of a phase. */
typedef void (*PhaseFunction)(const void *context, int64_t begin, int64_t end);

enum {
    CONTIGUOUS, /* each thread begins in a range of its own, and takes from others' when it has done that */
    IN_ORDER,   /* threads take items in their order */
};

void streamward_pool_enter(void);
void streamward_pool_leave(void);
void streamward_parallel_for(PhaseFunction function, const void *context, int64_t count, int64_t chunk, int order);
int64_t streamward_num_threads(void);

#endif
