/* Written by codegen.py for vectors of 8 float32 numbers.
   Names: 64x56x56b1 is an activation of 64 channels and 56x56 pixels, with a border of 1 pixel of zeros.
   A function that ends in 2x3 computes a register tile: 2 rows of 3 pixels (7x7_0: the first tile of 7x7),
   16 output channels. The function after them calls them, tile by tile. */
typedef float vector __attribute__((vector_size(32), may_alias));
typedef int mask __attribute__((vector_size(32), may_alias));

/* layer1.0.conv2 */
static __attribute__((noinline)) void winograd4x4_64x504x14_to_64x56x56_1x5(
    const float *w, const float *bias, const float *in, float *result, const float *next, long chunk
) {
    vector sum0_0_0, sum0_0_1;
    vector sum0_1_0, sum0_1_1;
    vector sum0_2_0, sum0_2_1;
    vector sum0_3_0, sum0_3_1;
    vector sum0_4_0, sum0_4_1;
    sum0_0_0 = *(vector *)bias;
    sum0_0_1 = *(vector *)(bias + 8);
    sum0_1_0 = *(vector *)bias;
    sum0_1_1 = *(vector *)(bias + 8);
    sum0_2_0 = *(vector *)bias;
    sum0_2_1 = *(vector *)(bias + 8);
    sum0_3_0 = *(vector *)bias;
    sum0_3_1 = *(vector *)(bias + 8);
    sum0_4_0 = *(vector *)bias;
    sum0_4_1 = *(vector *)(bias + 8);
    for (long group = 0; group < 8; group += 1) {
        for (const float *y = in; y < in + 112; y += 112) {
            for (const float *x = y; x < y + 8; x += 8) {
                __builtin_prefetch(next);
                __builtin_prefetch(next + 16);
                __builtin_prefetch(next + 32);
                next += 48;
                const float *after = y + 56448;
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
                        const float x0_3 = c[24];
                        sum0_3_0 += x0_3 * w0;
                        sum0_3_1 += x0_3 * w1;
                        const float x0_4 = c[32];
                        sum0_4_0 += x0_4 * w0;
                        sum0_4_1 += x0_4 * w1;
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
                        const float x0_3 = c[25];
                        sum0_3_0 += x0_3 * w0;
                        sum0_3_1 += x0_3 * w1;
                        const float x0_4 = c[33];
                        sum0_4_0 += x0_4 * w0;
                        sum0_4_1 += x0_4 * w1;
                    }
                    w += 32;
                    __builtin_prefetch(after);
                    after += 16;
                }
            }
        }
        in += 56448;
    }
    *(vector *)result = sum0_0_0;
    *(vector *)(result + 4032) = sum0_0_1;
    *(vector *)(result + 8) = sum0_1_0;
    *(vector *)(result + 4040) = sum0_1_1;
    *(vector *)(result + 16) = sum0_2_0;
    *(vector *)(result + 4048) = sum0_2_1;
    *(vector *)(result + 24) = sum0_3_0;
    *(vector *)(result + 4056) = sum0_3_1;
    *(vector *)(result + 32) = sum0_4_0;
    *(vector *)(result + 4064) = sum0_4_1;
}

static __attribute__((noinline)) void winograd4x4_64x504x14_to_64x56x56_1x4(
    const float *w, const float *bias, const float *in, float *result, const float *next, long chunk
) {
    vector sum0_0_0, sum0_0_1;
    vector sum0_1_0, sum0_1_1;
    vector sum0_2_0, sum0_2_1;
    vector sum0_3_0, sum0_3_1;
    sum0_0_0 = *(vector *)bias;
    sum0_0_1 = *(vector *)(bias + 8);
    sum0_1_0 = *(vector *)bias;
    sum0_1_1 = *(vector *)(bias + 8);
    sum0_2_0 = *(vector *)bias;
    sum0_2_1 = *(vector *)(bias + 8);
    sum0_3_0 = *(vector *)bias;
    sum0_3_1 = *(vector *)(bias + 8);
    for (long group = 0; group < 8; group += 1) {
        for (const float *y = in; y < in + 112; y += 112) {
            for (const float *x = y; x < y + 8; x += 8) {
                __builtin_prefetch(next);
                __builtin_prefetch(next + 16);
                __builtin_prefetch(next + 32);
                next += 48;
                const float *after = y + 56448;
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
                        const float x0_3 = c[24];
                        sum0_3_0 += x0_3 * w0;
                        sum0_3_1 += x0_3 * w1;
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
                        const float x0_3 = c[25];
                        sum0_3_0 += x0_3 * w0;
                        sum0_3_1 += x0_3 * w1;
                    }
                    w += 32;
                    __builtin_prefetch(after);
                    after += 16;
                }
            }
        }
        in += 56448;
    }
    *(vector *)result = sum0_0_0;
    *(vector *)(result + 4032) = sum0_0_1;
    *(vector *)(result + 8) = sum0_1_0;
    *(vector *)(result + 4040) = sum0_1_1;
    *(vector *)(result + 16) = sum0_2_0;
    *(vector *)(result + 4048) = sum0_2_1;
    *(vector *)(result + 24) = sum0_3_0;
    *(vector *)(result + 4056) = sum0_3_1;
}

static __attribute__((noinline)) void winograd4x4_64x504x14_to_64x56x56_4x4_output(
    const float *product, const float *bias, float *result
) {
    const vector d0_0 = *(vector *)product;
    const vector d1_0 = *(vector *)(product + 672);
    const vector d2_0 = *(vector *)(product + 1344);
    const vector d3_0 = *(vector *)(product + 2016);
    const vector d4_0 = *(vector *)(product + 2688);
    const vector d5_0 = *(vector *)(product + 3360);
    const vector t0_0 = d0_0 + d1_0 + d2_0 + d3_0 + d4_0;
    const vector t1_0 = d1_0 - d2_0 + 2.0f * d3_0 - 2.0f * d4_0;
    const vector t2_0 = d1_0 + d2_0 + 4.0f * d3_0 + 4.0f * d4_0;
    const vector t3_0 = d1_0 - d2_0 + 8.0f * d3_0 - 8.0f * d4_0 + d5_0;
    const vector d0_1 = *(vector *)(product + 112);
    const vector d1_1 = *(vector *)(product + 784);
    const vector d2_1 = *(vector *)(product + 1456);
    const vector d3_1 = *(vector *)(product + 2128);
    const vector d4_1 = *(vector *)(product + 2800);
    const vector d5_1 = *(vector *)(product + 3472);
    const vector t0_1 = d0_1 + d1_1 + d2_1 + d3_1 + d4_1;
    const vector t1_1 = d1_1 - d2_1 + 2.0f * d3_1 - 2.0f * d4_1;
    const vector t2_1 = d1_1 + d2_1 + 4.0f * d3_1 + 4.0f * d4_1;
    const vector t3_1 = d1_1 - d2_1 + 8.0f * d3_1 - 8.0f * d4_1 + d5_1;
    const vector d0_2 = *(vector *)(product + 224);
    const vector d1_2 = *(vector *)(product + 896);
    const vector d2_2 = *(vector *)(product + 1568);
    const vector d3_2 = *(vector *)(product + 2240);
    const vector d4_2 = *(vector *)(product + 2912);
    const vector d5_2 = *(vector *)(product + 3584);
    const vector t0_2 = d0_2 + d1_2 + d2_2 + d3_2 + d4_2;
    const vector t1_2 = d1_2 - d2_2 + 2.0f * d3_2 - 2.0f * d4_2;
    const vector t2_2 = d1_2 + d2_2 + 4.0f * d3_2 + 4.0f * d4_2;
    const vector t3_2 = d1_2 - d2_2 + 8.0f * d3_2 - 8.0f * d4_2 + d5_2;
    const vector d0_3 = *(vector *)(product + 336);
    const vector d1_3 = *(vector *)(product + 1008);
    const vector d2_3 = *(vector *)(product + 1680);
    const vector d3_3 = *(vector *)(product + 2352);
    const vector d4_3 = *(vector *)(product + 3024);
    const vector d5_3 = *(vector *)(product + 3696);
    const vector t0_3 = d0_3 + d1_3 + d2_3 + d3_3 + d4_3;
    const vector t1_3 = d1_3 - d2_3 + 2.0f * d3_3 - 2.0f * d4_3;
    const vector t2_3 = d1_3 + d2_3 + 4.0f * d3_3 + 4.0f * d4_3;
    const vector t3_3 = d1_3 - d2_3 + 8.0f * d3_3 - 8.0f * d4_3 + d5_3;
    const vector d0_4 = *(vector *)(product + 448);
    const vector d1_4 = *(vector *)(product + 1120);
    const vector d2_4 = *(vector *)(product + 1792);
    const vector d3_4 = *(vector *)(product + 2464);
    const vector d4_4 = *(vector *)(product + 3136);
    const vector d5_4 = *(vector *)(product + 3808);
    const vector t0_4 = d0_4 + d1_4 + d2_4 + d3_4 + d4_4;
    const vector t1_4 = d1_4 - d2_4 + 2.0f * d3_4 - 2.0f * d4_4;
    const vector t2_4 = d1_4 + d2_4 + 4.0f * d3_4 + 4.0f * d4_4;
    const vector t3_4 = d1_4 - d2_4 + 8.0f * d3_4 - 8.0f * d4_4 + d5_4;
    const vector d0_5 = *(vector *)(product + 560);
    const vector d1_5 = *(vector *)(product + 1232);
    const vector d2_5 = *(vector *)(product + 1904);
    const vector d3_5 = *(vector *)(product + 2576);
    const vector d4_5 = *(vector *)(product + 3248);
    const vector d5_5 = *(vector *)(product + 3920);
    const vector t0_5 = d0_5 + d1_5 + d2_5 + d3_5 + d4_5;
    const vector t1_5 = d1_5 - d2_5 + 2.0f * d3_5 - 2.0f * d4_5;
    const vector t2_5 = d1_5 + d2_5 + 4.0f * d3_5 + 4.0f * d4_5;
    const vector t3_5 = d1_5 - d2_5 + 8.0f * d3_5 - 8.0f * d4_5 + d5_5;
    const vector y0_0 = t0_0 + t0_1 + t0_2 + t0_3 + t0_4 + *(vector *)bias;
    *(vector *)result = (vector)((mask)y0_0 & ~(y0_0 < 0.0f));
    const vector y0_1 = t0_1 - t0_2 + 2.0f * t0_3 - 2.0f * t0_4 + *(vector *)bias;
    *(vector *)(result + 8) = (vector)((mask)y0_1 & ~(y0_1 < 0.0f));
    const vector y0_2 = t0_1 + t0_2 + 4.0f * t0_3 + 4.0f * t0_4 + *(vector *)bias;
    *(vector *)(result + 16) = (vector)((mask)y0_2 & ~(y0_2 < 0.0f));
    const vector y0_3 = t0_1 - t0_2 + 8.0f * t0_3 - 8.0f * t0_4 + t0_5 + *(vector *)bias;
    *(vector *)(result + 24) = (vector)((mask)y0_3 & ~(y0_3 < 0.0f));
    const vector y1_0 = t1_0 + t1_1 + t1_2 + t1_3 + t1_4 + *(vector *)bias;
    *(vector *)(result + 448) = (vector)((mask)y1_0 & ~(y1_0 < 0.0f));
    const vector y1_1 = t1_1 - t1_2 + 2.0f * t1_3 - 2.0f * t1_4 + *(vector *)bias;
    *(vector *)(result + 456) = (vector)((mask)y1_1 & ~(y1_1 < 0.0f));
    const vector y1_2 = t1_1 + t1_2 + 4.0f * t1_3 + 4.0f * t1_4 + *(vector *)bias;
    *(vector *)(result + 464) = (vector)((mask)y1_2 & ~(y1_2 < 0.0f));
    const vector y1_3 = t1_1 - t1_2 + 8.0f * t1_3 - 8.0f * t1_4 + t1_5 + *(vector *)bias;
    *(vector *)(result + 472) = (vector)((mask)y1_3 & ~(y1_3 < 0.0f));
    const vector y2_0 = t2_0 + t2_1 + t2_2 + t2_3 + t2_4 + *(vector *)bias;
    *(vector *)(result + 896) = (vector)((mask)y2_0 & ~(y2_0 < 0.0f));
    const vector y2_1 = t2_1 - t2_2 + 2.0f * t2_3 - 2.0f * t2_4 + *(vector *)bias;
    *(vector *)(result + 904) = (vector)((mask)y2_1 & ~(y2_1 < 0.0f));
    const vector y2_2 = t2_1 + t2_2 + 4.0f * t2_3 + 4.0f * t2_4 + *(vector *)bias;
    *(vector *)(result + 912) = (vector)((mask)y2_2 & ~(y2_2 < 0.0f));
    const vector y2_3 = t2_1 - t2_2 + 8.0f * t2_3 - 8.0f * t2_4 + t2_5 + *(vector *)bias;
    *(vector *)(result + 920) = (vector)((mask)y2_3 & ~(y2_3 < 0.0f));
    const vector y3_0 = t3_0 + t3_1 + t3_2 + t3_3 + t3_4 + *(vector *)bias;
    *(vector *)(result + 1344) = (vector)((mask)y3_0 & ~(y3_0 < 0.0f));
    const vector y3_1 = t3_1 - t3_2 + 2.0f * t3_3 - 2.0f * t3_4 + *(vector *)bias;
    *(vector *)(result + 1352) = (vector)((mask)y3_1 & ~(y3_1 < 0.0f));
    const vector y3_2 = t3_1 + t3_2 + 4.0f * t3_3 + 4.0f * t3_4 + *(vector *)bias;
    *(vector *)(result + 1360) = (vector)((mask)y3_2 & ~(y3_2 < 0.0f));
    const vector y3_3 = t3_1 - t3_2 + 8.0f * t3_3 - 8.0f * t3_4 + t3_5 + *(vector *)bias;
    *(vector *)(result + 1368) = (vector)((mask)y3_3 & ~(y3_3 < 0.0f));
}

static void winograd4x4_64x504x14_to_64x56x56(
    const float *weights, const float *input, float *output, long from, long to, long parts
) {
    const vector zeros[2] = {{0}};
    float products[8064] __attribute__((aligned(64)));
    for (long strip = 14 * from / parts; strip < 14 * to / parts; strip += 1) {
        for (long panel = 0; panel < 4; panel += 1) {
            const float *w = weights + 64 + panel * 36864;
            for (long position = 0; position < 36; position += 1) {
                const float *next = w + 1024;
                const float *in = input + (strip * 36 + position) * 112;
                float *result = products + position * 112;
                for (long x = 0; x < 10; x += 5) {
                    winograd4x4_64x504x14_to_64x56x56_1x5(w, (const float *)zeros, in + x * 8, result + x * 8, next, 0);
                    next += 352;
                }
                for (long x = 10; x < 14; x += 4) {
                    winograd4x4_64x504x14_to_64x56x56_1x4(w, (const float *)zeros, in + x * 8, result + x * 8, next, 0);
                    next += 352;
                }
                w += 1024;
            }
            for (long v = 0; v < 2; v += 1) {
                const float *bias = weights + panel * 16 + v * 8;
                const float *product = products + v * 4032;
                float *result = output + (panel * 2 + v) * 25088 + 0;
                for (long row = 0; row < 1; row += 1) {
                    long y = strip * 1 + row;
                    if (y >= 0 && y < 14) {
                        for (long x = 0; x < 14; x += 1) {
                            winograd4x4_64x504x14_to_64x56x56_4x4_output(product + (row * 14 + x) * 8, bias,
                                result + y * 1792 + x * 32);
                        }
                    }
                }
            }
        }
    }
}

static void layer1_0_conv2(const float *weights, float *memory, long from, long to, long parts) {
    winograd4x4_64x504x14_to_64x56x56(weights + 30272, memory + 2209264, memory + 990448, from, to, parts);
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
