/* What the pool needs of the system: mutexes, threads, waiting for a value to change, a clock. */
#ifndef STREAMWARD_THREADS_OS_H
#define STREAMWARD_THREADS_OS_H

#include <stdatomic.h>
#include <stdint.h>

#define STACK_BYTES (4 * 1024 * 1024) /* attention keeps 200 kB there; some systems give a thread no more than 128 */

#if defined(_WIN32)

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

typedef SRWLOCK Mutex;
#define MUTEX_INIT SRWLOCK_INIT
static void mutex_lock(Mutex *mutex) { AcquireSRWLockExclusive(mutex); }
static void mutex_unlock(Mutex *mutex) { ReleaseSRWLockExclusive(mutex); }

typedef HANDLE Thread;
typedef DWORD(WINAPI *ThreadFunction)(void *);
#define THREAD_RESULT DWORD WINAPI
static int thread_start(Thread *thread, ThreadFunction function, void *argument) {
    *thread = CreateThread(NULL, STACK_BYTES, function, argument, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    return *thread != NULL;
}
static void thread_join(Thread thread) {
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}

static SRWLOCK park_lock = SRWLOCK_INIT;
static CONDITION_VARIABLE park_condition = CONDITION_VARIABLE_INIT;
static void park(atomic_uint *word, unsigned expected) {
    AcquireSRWLockExclusive(&park_lock);
    while (atomic_load(word) == expected) SleepConditionVariableSRW(&park_condition, &park_lock, INFINITE, 0);
    ReleaseSRWLockExclusive(&park_lock);
}
static void unpark_all(atomic_uint *word) {
    (void)word;
    AcquireSRWLockExclusive(&park_lock); /* else a thread between its look at the word and its sleep would not wake */
    ReleaseSRWLockExclusive(&park_lock);
    WakeAllConditionVariable(&park_condition);
}

static int64_t now_ns(void) {
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    return (int64_t)((double)count.QuadPart * 1e9 / (double)frequency.QuadPart);
}
static void on_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    (void)prepare, (void)parent, (void)child;
}

#else

#include <pthread.h>
#include <signal.h>
#include <time.h>

typedef pthread_mutex_t Mutex;
#define MUTEX_INIT PTHREAD_MUTEX_INITIALIZER
static void mutex_lock(Mutex *mutex) { pthread_mutex_lock(mutex); }
static void mutex_unlock(Mutex *mutex) { pthread_mutex_unlock(mutex); }

typedef pthread_t Thread;
typedef void *(*ThreadFunction)(void *);
#define THREAD_RESULT void *
static int thread_start(Thread *thread, ThreadFunction function, void *argument) {
    pthread_attr_t attributes;
    sigset_t all, before;
    sigfillset(&all); /* signals are the program's business */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    const int failed = pthread_create(thread, &attributes, function, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return !failed;
}
static void thread_join(Thread thread) { pthread_join(thread, NULL); }

#if defined(__linux__)

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

static void park(atomic_uint *word, unsigned expected) {
    while (atomic_load(word) == expected) syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}
static void unpark_all(atomic_uint *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0); }

#else

static pthread_mutex_t park_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t park_condition = PTHREAD_COND_INITIALIZER;
static void park(atomic_uint *word, unsigned expected) {
    pthread_mutex_lock(&park_lock);
    while (atomic_load(word) == expected) pthread_cond_wait(&park_condition, &park_lock);
    pthread_mutex_unlock(&park_lock);
}
static void unpark_all(atomic_uint *word) {
    (void)word;
    pthread_mutex_lock(&park_lock); /* else a thread between its look at the word and its sleep would not wake */
    pthread_mutex_unlock(&park_lock);
    pthread_cond_broadcast(&park_condition);
}

#endif

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
static void on_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    pthread_atfork(prepare, parent, child);
}

#endif

/* How floats are rounded, and whether denormal numbers become 0: some libraries change it for the threads they load in. */
#if defined(__x86_64__)
#define USUAL_ROUNDING 0x1f80
static uint64_t rounding(void) { return __builtin_ia32_stmxcsr(); }
static void set_rounding(uint64_t state) { __builtin_ia32_ldmxcsr((unsigned)state); }
#elif defined(__aarch64__)
#define USUAL_ROUNDING 0
static uint64_t rounding(void) {
    uint64_t state;
    __asm__ volatile("mrs %0, fpcr" : "=r"(state));
    return state;
}
static void set_rounding(uint64_t state) { __asm__ volatile("msr fpcr, %0" : : "r"(state)); }
#else
#define USUAL_ROUNDING 0
static uint64_t rounding(void) { return 0; }
static void set_rounding(uint64_t state) { (void)state; }
#endif

static void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
