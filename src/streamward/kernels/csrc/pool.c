/*
 * One pool of threads for the whole process. The caller of a phase works too; it publishes the phase's items, takes what it
 * can, and waits for items that others have begun. Nobody waits for a thread that holds no item: one that lost its core to
 * another process delays a phase by the item it holds, and takes no part in those that follow until it is back.
 *
 * Threads spin for a short time, then park. Who calls while another caller is at work waits.
 */
#define _GNU_SOURCE /* syscall, clock_gettime */
#include "pool.h"

#include "threads_os.h"

#define MAX_THREADS 256
#define LINE 64
#define WORKER_SPIN_NS 100000 /* what lies between two steps at most, where they follow each other at once */
#define CALLER_SPIN_NS 50000  /* what an item takes at most, unless its thread has lost its core */
#define LOOKS_PER_TIME 32     /* at a value, before the clock is read */

/* Items that are left of a range: the next in the upper half, the end in the lower. */
typedef struct {
    _Alignas(LINE) _Atomic uint64_t range;
} Share;

static struct {
    Mutex lock; /* of who calls */
    int64_t wanted, num_workers;
    int has_fork_handlers;
    uint64_t rounding_of_caller;
    Thread threads[MAX_THREADS];
    PhaseFunction function;
    const void *context;
    _Atomic int64_t chunk, num_shares;
    Share shares[MAX_THREADS];
    _Alignas(LINE) _Atomic int64_t left; /* items that are not done */
    _Alignas(LINE) atomic_uint generation;
    _Alignas(LINE) atomic_uint num_parked;
    atomic_uint is_caller_parked;
    atomic_uint must_stop;
} pool = {.lock = MUTEX_INIT, .wanted = 1};

static uint64_t range_of(int64_t next, int64_t end) { return (uint64_t)next << 32 | (uint64_t)end; }

/* Take items from a share while it has any; return how many were done. */
static int64_t drain(Share *share, int64_t chunk) {
    int64_t done = 0;
    uint64_t range = atomic_load_explicit(&share->range, memory_order_acquire);
    for (;;) {
        const int64_t next = (int64_t)(range >> 32), end = (int64_t)(range & 0xffffffffu);
        if (next >= end) return done;
        const int64_t until = next + chunk < end ? next + chunk : end;
        if (!atomic_compare_exchange_weak_explicit(&share->range, &range, range_of(until, end), memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        pool.function(pool.context, next, until);
        done += until - next;
        range = atomic_load_explicit(&share->range, memory_order_acquire);
    }
}

/* Do what is left of a phase, one's own share first. */
static void work(int64_t index) {
    const int64_t num_shares = atomic_load_explicit(&pool.num_shares, memory_order_relaxed);
    const int64_t chunk = atomic_load_explicit(&pool.chunk, memory_order_relaxed);
    int64_t done = 0;
    for (int64_t i = 0; i < num_shares; i++) {
        Share *share = &pool.shares[(index + i) % num_shares];
        done += drain(share, i ? (chunk + 3) / 4 : chunk);
    }
    if (!done) return;
    if (atomic_fetch_sub(&pool.left, done) == done && atomic_exchange(&pool.is_caller_parked, 0))
        unpark_all(&pool.is_caller_parked);
}

/* Spin until the phase changes; return whether it did in time. */
static int spin_for_phase(unsigned seen) {
    const int64_t end = now_ns() + WORKER_SPIN_NS;
    do {
        for (int i = 0; i < LOOKS_PER_TIME; i++) {
            if (atomic_load_explicit(&pool.generation, memory_order_acquire) != seen) return 1;
            cpu_relax();
        }
    } while (now_ns() < end);
    return 0;
}

static THREAD_RESULT run_worker(void *argument) {
    const int64_t index = (int64_t)(intptr_t)argument;
    set_rounding(USUAL_ROUNDING);
    unsigned seen = atomic_load(&pool.generation);
    while (!atomic_load(&pool.must_stop)) {
        work(index);
        if (!spin_for_phase(seen)) {
            atomic_fetch_add(&pool.num_parked, 1);
            park(&pool.generation, seen);
            atomic_fetch_sub(&pool.num_parked, 1);
        }
        seen = atomic_load(&pool.generation);
    }
    return 0;
}

static void publish(void) {
    atomic_fetch_add(&pool.generation, 1);
    if (atomic_load(&pool.num_parked)) unpark_all(&pool.generation);
}

static void wait_for_others(void) {
    int64_t end = 0;
    for (;;) {
        for (int i = 0; i < LOOKS_PER_TIME; i++) {
            if (!atomic_load_explicit(&pool.left, memory_order_acquire)) return;
            cpu_relax();
        }
        const int64_t now = now_ns();
        if (!end) end = now + CALLER_SPIN_NS;
        if (now >= end) break;
    }
    atomic_store(&pool.is_caller_parked, 1);
    while (atomic_load(&pool.left)) park(&pool.is_caller_parked, 1);
    atomic_store(&pool.is_caller_parked, 0);
}

/* Call a function for all items from 0 to count - 1, `chunk` at a time; within enter and leave. Few are done at once. */
void streamward_parallel_for(PhaseFunction function, const void *context, int64_t count, int64_t chunk, int order) {
    const int64_t num_shares = pool.num_workers + 1;
    if (num_shares == 1 || count <= chunk) {
        if (count) function(context, 0, count);
        return;
    }
    pool.function = function;
    pool.context = context;
    atomic_store_explicit(&pool.chunk, chunk, memory_order_relaxed);
    atomic_store_explicit(&pool.left, count, memory_order_relaxed);
    for (int64_t i = 0; i < num_shares; i++) {
        const int64_t begin = order == CONTIGUOUS ? count * i / num_shares : i ? count : 0;
        const int64_t end = order == CONTIGUOUS ? count * (i + 1) / num_shares : count;
        atomic_store_explicit(&pool.shares[i].range, range_of(begin, end), memory_order_release);
    }
    publish();
    work(0);
    wait_for_others();
}

int64_t streamward_num_threads(void) { return pool.num_workers + 1; }

static void before_fork(void) { mutex_lock(&pool.lock); }
static void after_fork_in_parent(void) { mutex_unlock(&pool.lock); }

/* A child has the calling thread alone. */
static void after_fork_in_child(void) {
    pool.num_workers = 0;
    atomic_store(&pool.num_parked, 0);
    atomic_store(&pool.is_caller_parked, 0);
    mutex_unlock(&pool.lock);
}

static void stop_workers(void) {
    atomic_store(&pool.must_stop, 1);
    publish();
    for (int64_t i = 0; i < pool.num_workers; i++) thread_join(pool.threads[i]);
    atomic_store(&pool.must_stop, 0);
    pool.num_workers = 0;
}

/* Wait for one's turn, and start the threads that are wanted; fewer if the system refuses. Floats are as usual until leave. */
void streamward_pool_enter(void) {
    mutex_lock(&pool.lock);
    pool.rounding_of_caller = rounding();
    set_rounding(USUAL_ROUNDING);
    if (pool.num_workers == pool.wanted - 1) return;
    if (pool.num_workers > pool.wanted - 1) stop_workers();
    if (!pool.has_fork_handlers) on_fork(before_fork, after_fork_in_parent, after_fork_in_child);
    pool.has_fork_handlers = 1;
    atomic_store(&pool.num_shares, 0);
    while (pool.num_workers < pool.wanted - 1) {
        void *index = (void *)(intptr_t)(pool.num_workers + 1);
        if (!thread_start(&pool.threads[pool.num_workers], run_worker, index)) {
            pool.wanted = pool.num_workers + 1;
            break;
        }
        pool.num_workers++;
    }
    atomic_store(&pool.num_shares, pool.num_workers + 1);
}

void streamward_pool_leave(void) {
    set_rounding(pool.rounding_of_caller);
    mutex_unlock(&pool.lock);
}

/* Use so many threads from the next call on, the caller among them. */
void streamward_want_threads(int64_t count) {
    mutex_lock(&pool.lock);
    pool.wanted = count < 1 ? 1 : count > MAX_THREADS ? MAX_THREADS : count;
    mutex_unlock(&pool.lock);
}

int64_t streamward_wanted_threads(void) {
    mutex_lock(&pool.lock);
    const int64_t wanted = pool.wanted;
    mutex_unlock(&pool.lock);
    return wanted;
}
