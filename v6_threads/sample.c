/* Written by codegen.py for vectors of 8 float32 numbers.
   Names: 64x56x56b1 is an activation of 64 channels and 56x56 pixels, with a border of 1 pixel of zeros.
   A function that ends in 2x3 computes a register tile: 2 rows of 3 pixels (7x7_0: the first tile of 7x7),
   16 output channels. The function after them calls them, tile by tile. */
typedef float vector __attribute__((vector_size(32), may_alias));
typedef int mask __attribute__((vector_size(32), may_alias));

/* layer1.0.conv2 */
static __attribute__((noinline)) void conv2d_3x3_64x56x56b1_to_64x56x56_relu_2x3(
    const float *w, const float *bias, const float *in, float *result, const float *next, long chunk
) {
    vector sum0_0_0, sum0_0_1;
    vector sum0_1_0, sum0_1_1;
    vector sum0_2_0, sum0_2_1;
    vector sum1_0_0, sum1_0_1;
    vector sum1_1_0, sum1_1_1;
    vector sum1_2_0, sum1_2_1;
    sum0_0_0 = *(vector *)bias;
    sum0_0_1 = *(vector *)(bias + 8);
    sum0_1_0 = *(vector *)bias;
    sum0_1_1 = *(vector *)(bias + 8);
    sum0_2_0 = *(vector *)bias;
    sum0_2_1 = *(vector *)(bias + 8);
    sum1_0_0 = *(vector *)bias;
    sum1_0_1 = *(vector *)(bias + 8);
    sum1_1_0 = *(vector *)bias;
    sum1_1_1 = *(vector *)(bias + 8);
    sum1_2_0 = *(vector *)bias;
    sum1_2_1 = *(vector *)(bias + 8);
    for (long group = 0; group < 8; group += 1) {
        for (const float *y = in; y < in + 1392; y += 464) {
            for (const float *x = y; x < y + 24; x += 8) {
                __builtin_prefetch(next);
                next += 16;
                const float *after = y + 26912;
                for (const float *c = x; c < x + 8; c += 2) {
                    {
                        const vector w0 = *(vector *)w;
                        const vector w1 = *(vector *)(w + 8);
                        const float x0_0 = c[0];
                        sum0_0_0 += x0_0 * w0;
                        sum0_0_1 += x0_0 * w1;
                        const float x0_1 = c[8];
                        sum0_1_0 += x0_1 * w0;
                        sum0_1_1 += x0_1 * w1;
                        const float x0_2 = c[16];
                        sum0_2_0 += x0_2 * w0;
                        sum0_2_1 += x0_2 * w1;
                        const float x1_0 = c[464];
                        sum1_0_0 += x1_0 * w0;
                        sum1_0_1 += x1_0 * w1;
                        const float x1_1 = c[472];
                        sum1_1_0 += x1_1 * w0;
                        sum1_1_1 += x1_1 * w1;
                        const float x1_2 = c[480];
                        sum1_2_0 += x1_2 * w0;
                        sum1_2_1 += x1_2 * w1;
                    }
                    {
                        const vector w0 = *(vector *)(w + 16);
                        const vector w1 = *(vector *)(w + 24);
                        const float x0_0 = c[1];
                        sum0_0_0 += x0_0 * w0;
                        sum0_0_1 += x0_0 * w1;
                        const float x0_1 = c[9];
                        sum0_1_0 += x0_1 * w0;
                        sum0_1_1 += x0_1 * w1;
                        const float x0_2 = c[17];
                        sum0_2_0 += x0_2 * w0;
                        sum0_2_1 += x0_2 * w1;
                        const float x1_0 = c[465];
                        sum1_0_0 += x1_0 * w0;
                        sum1_0_1 += x1_0 * w1;
                        const float x1_1 = c[473];
                        sum1_1_0 += x1_1 * w0;
                        sum1_1_1 += x1_1 * w1;
                        const float x1_2 = c[481];
                        sum1_2_0 += x1_2 * w0;
                        sum1_2_1 += x1_2 * w1;
                    }
                    w += 32;
                    __builtin_prefetch(after);
                    after += 16;
                }
            }
        }
        in += 26912;
    }
    *(vector *)result = (vector)((mask)sum0_0_0 & ~(sum0_0_0 < 0.0f));
    *(vector *)(result + 25088) = (vector)((mask)sum0_0_1 & ~(sum0_0_1 < 0.0f));
    *(vector *)(result + 8) = (vector)((mask)sum0_1_0 & ~(sum0_1_0 < 0.0f));
    *(vector *)(result + 25096) = (vector)((mask)sum0_1_1 & ~(sum0_1_1 < 0.0f));
    *(vector *)(result + 16) = (vector)((mask)sum0_2_0 & ~(sum0_2_0 < 0.0f));
    *(vector *)(result + 25104) = (vector)((mask)sum0_2_1 & ~(sum0_2_1 < 0.0f));
    *(vector *)(result + 448) = (vector)((mask)sum1_0_0 & ~(sum1_0_0 < 0.0f));
    *(vector *)(result + 25536) = (vector)((mask)sum1_0_1 & ~(sum1_0_1 < 0.0f));
    *(vector *)(result + 456) = (vector)((mask)sum1_1_0 & ~(sum1_1_0 < 0.0f));
    *(vector *)(result + 25544) = (vector)((mask)sum1_1_1 & ~(sum1_1_1 < 0.0f));
    *(vector *)(result + 464) = (vector)((mask)sum1_2_0 & ~(sum1_2_0 < 0.0f));
    *(vector *)(result + 25552) = (vector)((mask)sum1_2_1 & ~(sum1_2_1 < 0.0f));
}

static __attribute__((noinline)) void conv2d_3x3_64x56x56b1_to_64x56x56_relu_2x2(
    const float *w, const float *bias, const float *in, float *result, const float *next, long chunk
) {
    vector sum0_0_0, sum0_0_1;
    vector sum0_1_0, sum0_1_1;
    vector sum1_0_0, sum1_0_1;
    vector sum1_1_0, sum1_1_1;
    sum0_0_0 = *(vector *)bias;
    sum0_0_1 = *(vector *)(bias + 8);
    sum0_1_0 = *(vector *)bias;
    sum0_1_1 = *(vector *)(bias + 8);
    sum1_0_0 = *(vector *)bias;
    sum1_0_1 = *(vector *)(bias + 8);
    sum1_1_0 = *(vector *)bias;
    sum1_1_1 = *(vector *)(bias + 8);
    for (long group = 0; group < 8; group += 1) {
        for (const float *y = in; y < in + 1392; y += 464) {
            for (const float *x = y; x < y + 24; x += 8) {
                __builtin_prefetch(next);
                next += 16;
                const float *after = y + 26912;
                for (const float *c = x; c < x + 8; c += 2) {
                    {
                        const vector w0 = *(vector *)w;
                        const vector w1 = *(vector *)(w + 8);
                        const float x0_0 = c[0];
                        sum0_0_0 += x0_0 * w0;
                        sum0_0_1 += x0_0 * w1;
                        const float x0_1 = c[8];
                        sum0_1_0 += x0_1 * w0;
                        sum0_1_1 += x0_1 * w1;
                        const float x1_0 = c[464];
                        sum1_0_0 += x1_0 * w0;
                        sum1_0_1 += x1_0 * w1;
                        const float x1_1 = c[472];
                        sum1_1_0 += x1_1 * w0;
                        sum1_1_1 += x1_1 * w1;
                    }
                    {
                        const vector w0 = *(vector *)(w + 16);
                        const vector w1 = *(vector *)(w + 24);
                        const float x0_0 = c[1];
                        sum0_0_0 += x0_0 * w0;
                        sum0_0_1 += x0_0 * w1;
                        const float x0_1 = c[9];
                        sum0_1_0 += x0_1 * w0;
                        sum0_1_1 += x0_1 * w1;
                        const float x1_0 = c[465];
                        sum1_0_0 += x1_0 * w0;
                        sum1_0_1 += x1_0 * w1;
                        const float x1_1 = c[473];
                        sum1_1_0 += x1_1 * w0;
                        sum1_1_1 += x1_1 * w1;
                    }
                    w += 32;
                    __builtin_prefetch(after);
                    after += 16;
                }
            }
        }
        in += 26912;
    }
    *(vector *)result = (vector)((mask)sum0_0_0 & ~(sum0_0_0 < 0.0f));
    *(vector *)(result + 25088) = (vector)((mask)sum0_0_1 & ~(sum0_0_1 < 0.0f));
    *(vector *)(result + 8) = (vector)((mask)sum0_1_0 & ~(sum0_1_0 < 0.0f));
    *(vector *)(result + 25096) = (vector)((mask)sum0_1_1 & ~(sum0_1_1 < 0.0f));
    *(vector *)(result + 448) = (vector)((mask)sum1_0_0 & ~(sum1_0_0 < 0.0f));
    *(vector *)(result + 25536) = (vector)((mask)sum1_0_1 & ~(sum1_0_1 < 0.0f));
    *(vector *)(result + 456) = (vector)((mask)sum1_1_0 & ~(sum1_1_0 < 0.0f));
    *(vector *)(result + 25544) = (vector)((mask)sum1_1_1 & ~(sum1_1_1 < 0.0f));
}

static void conv2d_3x3_64x56x56b1_to_64x56x56_relu(
    const float *weights, const float *input, float *output, long from, long to, long parts
) {
    for (long chunk = 0; chunk < 1; chunk += 1) {
        for (long panel = 0; panel < 4; panel += 1) {
            const float *bias = weights + panel * 16;
            const float *w = weights + 64 + (chunk * 4 + panel) * 9216;
            const float *next = w + 9216;
            const float *in = input + chunk * 215296 + 0;
            float *result = output + panel * 50176 + 0;
            for (long y = 28 * from / parts * 2; y < 28 * to / parts * 2; y += 2) {
                for (long x = 0; x < 54; x += 3) {
                    conv2d_3x3_64x56x56b1_to_64x56x56_relu_2x3(w, bias, in + y * 464 + x * 8,
                        result + y * 448 + x * 8, next, chunk);
                    next += 32;
                }
                for (long x = 54; x < 56; x += 2) {
                    conv2d_3x3_64x56x56b1_to_64x56x56_relu_2x2(w, bias, in + y * 464 + x * 8,
                        result + y * 448 + x * 8, next, chunk);
                    next += 32;
                }
            }
        }
    }
}

static void layer1_0_conv2(const float *weights, float *memory, long from, long to, long parts) {
    conv2d_3x3_64x56x56b1_to_64x56x56_relu(weights + 30272, memory + 1993968, memory + 990448, from, to, parts);
}

static void (*const steps[])(const float *weights, float *memory, long from, long to, long parts) = {
    layer1_0_conv2,
};

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { PARTS = 8, FIRST = 6 }; /* parts of a thread's share; the first call for it computes six, every other one */

struct worker {
    pthread_t thread;
    atomic_long calls; /* for its share of this step, and attempts at more */
    long rest[6];      /* so that no two `calls` are in one cache line */
};

struct pool {
    const float *weights;
    float *memory;
    long threads;
    long first, last;          /* the steps to run */
    pthread_mutex_t mutex;     /* guards first to closing */
    pthread_cond_t wake, next; /* there is a run to do; all threads have done a step */
    long started, runs, closing;
    atomic_long arrived, phase;
    struct worker workers[];
};

/* Wait until all threads are here: first spinning, since shares are nearly equal and waking a thread takes longer than
   they differ; then offering the core, which the thread that is missing may need; after some milliseconds asleep. */
static void barrier(struct pool *pool) {
    long phase = atomic_load(&pool->phase);
    if (atomic_fetch_add(&pool->arrived, 1) + 1 == pool->threads) {
        atomic_store(&pool->arrived, 0);
        for (long thread = 0; thread < pool->threads; thread += 1) {
            atomic_store(&pool->workers[thread].calls, 0);
        }
        pthread_mutex_lock(&pool->mutex);
        atomic_store(&pool->phase, phase + 1);
        pthread_cond_broadcast(&pool->next);
        pthread_mutex_unlock(&pool->mutex);
        return;
    }
    for (long spins = 0; spins < 20000; spins += 1) {
        if (atomic_load_explicit(&pool->phase, memory_order_acquire) != phase) {
            return;
        }
        if (spins > 10000) {
            sched_yield();
        }
    }
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load(&pool->phase) == phase) {
        pthread_cond_wait(&pool->next, &pool->mutex);
    }
    pthread_mutex_unlock(&pool->mutex);
}

static void forward(struct pool *pool, long thread, long first, long last) {
    for (long step = first; step < last; step += 1) {
        for (long n = 0; n < pool->threads; n += 1) { /* its own share, then what a slower thread has not begun */
            long owner = (thread + n) % pool->threads, start = owner * PARTS, to;
            while ((to = FIRST + atomic_fetch_add(&pool->workers[owner].calls, 1)) <= PARTS) {
                long from = to == FIRST ? 0 : to - 1;
                steps[step](pool->weights, pool->memory, start + from, start + to, PARTS * pool->threads);
            }
        }
        barrier(pool);
    }
}

static void *worker(void *argument) {
    struct pool *pool = argument;
    long done = 0;
    pthread_mutex_lock(&pool->mutex);
    long thread = pool->started += 1;
    for (;;) {
        while (pool->runs == done && !pool->closing) {
            pthread_cond_wait(&pool->wake, &pool->mutex);
        }
        if (pool->closing) {
            pthread_mutex_unlock(&pool->mutex);
            return NULL;
        }
        done = pool->runs;
        long first = pool->first, last = pool->last; /* the next run may begin while this thread leaves the barrier */
        pthread_mutex_unlock(&pool->mutex);
        forward(pool, thread, first, last);
        pthread_mutex_lock(&pool->mutex);
    }
}

void pool_run(struct pool *pool, long first, long last) {
    pthread_mutex_lock(&pool->mutex);
    pool->first = first;
    pool->last = last;
    pool->runs += 1;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    forward(pool, 0, first, last);
}

void pool_close(struct pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    pool->closing = 1;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (long thread = 1; thread < pool->threads; thread += 1) {
        pthread_join(pool->workers[thread].thread, NULL);
    }
    free(pool);
}

/* Return a pool of as many threads as asked for, the caller's included, or NULL if the system refuses one. */
struct pool *pool_open(const float *weights, float *memory, long threads) {
    struct pool *pool = calloc(1, sizeof *pool + threads * sizeof(struct worker));
    if (!pool) {
        return NULL;
    }
    pool->weights = weights;
    pool->memory = memory;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->next, NULL);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads of the Python interpreter */
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 20); /* some systems give 128 KiB, and version 7 needs 512 */
    pool->threads = 1;
    struct worker *next = pool->workers + 1;
    while (pool->threads < threads && !pthread_create(&next->thread, &attributes, worker, pool)) {
        pool->threads += 1;
        next += 1;
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (pool->threads < threads) {
        pool_close(pool);
        return NULL;
    }
    return pool;
}
