/* Written by codegen.py for vectors of 16 float32 numbers.
   Names: 64x56x56b1 is an activation of 64 channels and 56x56 pixels, with a border of 1 pixel of zeros.
   A function that ends in 2x3 computes a register tile: 2 rows of 3 pixels (7x7_0: the first tile of 7x7),
   32 output channels. The function after them calls them, tile by tile. */
typedef float vector __attribute__((vector_size(64), may_alias));
typedef int mask __attribute__((vector_size(64), may_alias));

/* Before a buffer lies a number for each part of its step: the largest that was written. A call for several parts puts
   it in the first one's place. */
static void keep_largest(float *output, vector most, long from, long to) {
    for (long part = from; part < to; part += 1) {
        output[-1 - part] = 0.0f;
    }
    for (unsigned long lane = 0; lane < sizeof most / sizeof *output; lane += 1) {
        output[-1 - from] = most[lane] > output[-1 - from] ? most[lane] : output[-1 - from];
    }
}

static float largest(const float *input, long parts) {
    float most = 0.0f;
    for (long part = 0; part < parts; part += 1) {
        most = input[-1 - part] > most ? input[-1 - part] : most;
    }
    return most;
}

#include <immintrin.h>
typedef int sum __attribute__((vector_size(64), may_alias));

/* Tiles 0 to 6 have a row for each of so many pixels, tile 7 one for each four input channels. The table is static
   since gcc takes its first eight bytes for all that the instruction reads. */
#define tile_shapes(pixels) \
    static const struct { \
        unsigned char palette, start, unused[14]; \
        short bytes[16]; /* of a row */ \
        unsigned char rows[16]; \
    } shapes = { \
        .palette = 1, /* the only one */ \
        .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, \
        .rows = {pixels, pixels, pixels, pixels, pixels, pixels, pixels, 16}, \
    }; \
    _tile_loadconfig(&shapes)

static inline vector floats(sum integers) {
    return __builtin_convertvector(integers, vector);
}

/* layer1.0.conv2 */
static __attribute__((noinline)) void ozaki_3x3_48x56x56b1_to_64x56x56_relu_2x14(
    const float *w, const float *factors, float unit, const float *in, float *result, const float *next,
    vector *most
) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    for (long group = 0; group < 1; group += 1) {
        for (const float *y = in; y < in + 8352; y += 2784) {
            for (const float *x = y; x < y + 144; x += 48) {
                _tile_loadd(7, w + 0, 64);
                _tile_loadd(6, x + 0, 192);
                _tile_dpbssd(0, 6, 7);
                _tile_loadd(6, x + 2784, 192);
                _tile_dpbssd(1, 6, 7);
                _tile_loadd(6, x + 16, 192);
                _tile_dpbssd(2, 6, 7);
                _tile_loadd(6, x + 2800, 192);
                _tile_dpbssd(3, 6, 7);
                _tile_loadd(6, x + 32, 192);
                _tile_dpbssd(4, 6, 7);
                _tile_loadd(6, x + 2816, 192);
                _tile_dpbssd(5, 6, 7);
                _tile_loadd(7, w + 256, 64);
                _tile_loadd(6, x + 0, 192);
                _tile_dpbssd(2, 6, 7);
                _tile_loadd(6, x + 2784, 192);
                _tile_dpbssd(3, 6, 7);
                _tile_loadd(6, x + 16, 192);
                _tile_dpbssd(4, 6, 7);
                _tile_loadd(6, x + 2800, 192);
                _tile_dpbssd(5, 6, 7);
                _tile_loadd(7, w + 512, 64);
                _tile_loadd(6, x + 0, 192);
                _tile_dpbssd(4, 6, 7);
                _tile_loadd(6, x + 2784, 192);
                _tile_dpbssd(5, 6, 7);
                w += 768;
            }
        }
        in += 161472;
    }
    sum sums[3][2][16]; /* no instruction moves a tile to vectors */
    _tile_stored(0, sums[0][0], 64);
    _tile_stored(1, sums[0][1], 64);
    _tile_stored(2, sums[1][0], 64);
    _tile_stored(3, sums[1][1], 64);
    _tile_stored(4, sums[2][0], 64);
    _tile_stored(5, sums[2][1], 64);
    const vector bias = *(vector *)factors, factor = *(vector *)(factors + 16) * (65536.0f * unit);
    vector largest = *most;
    for (long n = 0; n < 14; n += 1) {
        vector *place = (vector *)(result + 0 + n * 16);
        vector low = floats(sums[1][0][n]) * 256.0f + floats(sums[2][0][n]);
        vector value = (floats(sums[0][0][n]) * 65536.0f + low) * factor + bias;
        value = (vector)((mask)value & ~(value < 0.0f));
        largest = (vector)(((mask)value & (value > largest)) | ((mask)largest & ~(value > largest)));
        *place = value;
    }
    for (long n = 0; n < 14; n += 1) {
        vector *place = (vector *)(result + 896 + n * 16);
        vector low = floats(sums[1][1][n]) * 256.0f + floats(sums[2][1][n]);
        vector value = (floats(sums[0][1][n]) * 65536.0f + low) * factor + bias;
        value = (vector)((mask)value & ~(value < 0.0f));
        largest = (vector)(((mask)value & (value > largest)) | ((mask)largest & ~(value > largest)));
        *place = value;
    }
    *most = largest;
}

static void ozaki_3x3_48x56x56b1_to_64x56x56_relu(
    const float *weights, const float *input, float *output, long from, long to, long parts
) {
    const float unit = input[-1];
    vector most = {0};
    tile_shapes(14);
    for (long y = 28 * from / parts * 2; y < 28 * to / parts * 2; y += 2) {
        for (long x = 0; x < 56; x += 14) {
            for (long panel = 0; panel < 4; panel += 1) {
                const float *factors = weights + panel * 32;
                const float *w = weights + 128 + panel * 6912;
                const float *next = w + 6912;
                const float *in = input + 0;
                float *result = output + panel * 50176 + 0;
                ozaki_3x3_48x56x56b1_to_64x56x56_relu_2x14(w, factors, unit, in + y * 2784 + x * 48,
                    result + y * 896 + x * 16, next, &most);
            }
        }
    }
    _tile_release();
    keep_largest(output, most, from, to);
}

static void layer1_0_conv2(const float *weights, float *memory, long from, long to, long parts) {
    ozaki_3x3_48x56x56b1_to_64x56x56_relu(weights + 25472, memory + 2345312, memory + 990496, from, to, parts);
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
