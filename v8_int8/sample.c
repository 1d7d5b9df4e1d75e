/* Written by codegen.py for vectors of 8 sums of 32 bits.
   Names: 64x56x56b1 is an activation of 64 channels and 56x56 pixels, with a border of 1 pixel of zeros.
   A function that ends in 2x3 computes a register tile: 2 rows of 3 pixels (7x7_0: the first tile of 7x7),
   16 output channels. The function after them calls them, tile by tile. */
#define WIDTH 8
#define GROUP 16
/* How bytes become sums, and sums bytes: the only place where instructions are named. A vector has WIDTH lanes of 32 bits, and
   GROUP channels of a pixel lie side by side.

   dot4(part, x, w)    adds four products to every lane: `x` holds the same four activations (0 ... 127) in each lane,
                       `w` four weights (-127 ... 127) of another output channel in each
   begin, end          stand around the dot4 of up to 16 input channels. Most processors add the four products to a sum of 32
                       bits; then `part` is that sum. AVX2 adds pairs of them in 16 bits, which 8 products share;
                       weights.py chooses scales with which they cannot overflow. So all give the same.
   get(from)           WIDTH bytes as float32 numbers
   put(to, a, b)       two vectors of numbers below 2^31 as bytes: rounded, half to even, and clamped to 0 ... 127
   tile_...            AMX, see amx.py: tile_dot does for 16 pixels, 16 output and 64 input channels what dot4 does for one
                       pixel, WIDTH and 4 */

typedef signed char byte __attribute__((may_alias));
typedef int word __attribute__((aligned(1), may_alias));
typedef signed char bytes __attribute__((vector_size(GROUP), may_alias));
typedef short shorts __attribute__((vector_size(4 * WIDTH)));
typedef int vector __attribute__((vector_size(4 * WIDTH), may_alias));
typedef float floats __attribute__((vector_size(4 * WIDTH), may_alias));
typedef floats anywhere __attribute__((aligned(4))); /* in memory, not at a multiple of its size */

static inline vector broadcast(const byte *x) {
    return *(const word *)x + (vector){0};
}

static inline floats scaled(vector sum, floats factor) {
    return __builtin_convertvector(sum, floats) * factor;
}

#if WIDTH == 16
#include <immintrin.h>
static inline vector dot4(vector part, vector x, vector w) {
    return (vector)_mm512_dpbusd_epi32((__m512i)part, (__m512i)x, (__m512i)w);
}

static inline floats get(const byte *from) {
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)from)));
}

static inline void put(byte *to, floats a, floats b) {
    __m512i both = _mm512_packs_epi32(_mm512_cvtps_epi32((__m512)a), _mm512_cvtps_epi32((__m512)b)); /* clamps */
    __m512i packed = _mm512_packs_epi16(both, both); /* bytes, in fours: 0 to 3 of a, of b, again both; 4 to 7; ... */
    __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 4, 8, 12, 1, 5, 9, 13);
    __m256i all = _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, packed));
    _mm256_storeu_si256((__m256i *)to, _mm256_max_epi8(all, _mm256_setzero_si256()));
}

#ifdef __AMX_INT8__
/* Tiles 0 to 3 get sums of 16 output channels for `pixels`, 4 and 5 `lanes` bytes of each, 6 and 7 weights. The table is
   static since gcc takes its first eight bytes for all that the instruction reads. */
struct shapes {
    byte palette, start, unused[14];
    short bytes[16]; /* of a row */
    byte rows[16];
};
#define tile_shapes(pixels, lanes) \
    static const struct shapes shapes = { \
        .palette = 1, /* the only one */ \
        .bytes = {64, 64, 64, 64, lanes, lanes, 64, 64}, \
        .rows = {pixels, pixels, pixels, pixels, pixels, pixels, lanes / 4, lanes / 4}, \
    }; \
    _tile_loadconfig(&shapes)
#define tile_load _tile_loadd
#define tile_dot _tile_dpbusd
#define tile_store _tile_stored
#define tile_release _tile_release
#endif
#elif WIDTH == 8
#include <immintrin.h>
#ifdef __AVXVNNI__
static inline vector dot4(vector part, vector x, vector w) {
    return (vector)_mm256_dpbusd_avx_epi32((__m256i)part, (__m256i)x, (__m256i)w);
}
#else
#define PAIRS
#ifndef __clang__ /* gcc: keep the order of the text, which is 1.4 times as fast on Zen 3 */
#pragma GCC optimize("no-tree-ter", "no-tree-reassoc")
#endif
static inline vector dot4(vector part, vector x, vector w) {
    return (vector)_mm256_add_epi16((__m256i)part, _mm256_maddubs_epi16((__m256i)x, (__m256i)w));
}

static inline vector begin(vector sum) {
    return sum - sum;
}

static inline vector end(vector sum, vector part) {
    return sum + (vector)_mm256_madd_epi16((__m256i)part, _mm256_set1_epi16(1));
}
#endif

static inline floats get(const byte *from) {
    return (floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
}

static inline void put(byte *to, floats a, floats b) {
    __m256i c = _mm256_cvtps_epi32((__m256)a), d = _mm256_cvtps_epi32((__m256)b);
    __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(c, d), 0xd8); /* clamps, as packs_epi16 does */
    __m128i packed = _mm_packs_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    _mm_storeu_si128((__m128i *)to, _mm_max_epi8(packed, _mm_setzero_si128()));
}
#else
#ifdef __ARM_FEATURE_DOTPROD
#ifndef __clang__ /* gcc's intrinsic wants this architecture by name; ziglang's clang takes no -march */
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#include <arm_neon.h>
static inline vector dot4(vector part, vector x, vector w) {
    return (vector)vdotq_s32((int32x4_t)part, (int8x16_t)x, (int8x16_t)w);
}
#else /* no instructions: this says what all others must compute */
static inline vector dot4(vector part, vector x, vector w) {
    shorts even = ((shorts)x << 8 >> 8) * ((shorts)w << 8 >> 8), odd = ((shorts)x >> 8) * ((shorts)w >> 8);
    vector pairs = (vector)(even + odd); /* two sums of 16 bits a lane, at most 2 * 127 * 127 */
    return part + (pairs << 16 >> 16) + (pairs >> 16);
}
#endif

static inline floats get(const byte *from) {
    return (floats){from[0], from[1], from[2], from[3]};
}

static inline void put(byte *to, floats a, floats b) {
    for (int n = 0; n < 8; n += 1) {
        float value = n < 4 ? a[n] : b[n - 4];
        value = value > 0.0f ? value : 0.0f;
        value = value < 127.0f ? value : 127.0f;
        to[n] = (byte)(value + 12582912.0f - 12582912.0f); /* 1.5 * 2^23: what lies behind the point is rounded off */
    }
}
#endif

#ifndef PAIRS
static inline vector begin(vector sum) {
    return sum;
}

static inline vector end(vector sum, vector part) {
    (void)sum;
    return part;
}
#endif

/* layer1.0.conv2 */
static __attribute__((noinline)) void conv2d_3x3_64x56x56b1_to_64x56x56_relu_1x4(
    const byte *w, const float *factors, const byte *in, byte *result, const byte *next
) {
    const vector bias0 = *(vector *)factors;
    const vector bias1 = *(vector *)(factors + 8);
    vector sum0_0_0 = bias0, sum0_0_1 = bias1;
    vector sum0_1_0 = bias0, sum0_1_1 = bias1;
    vector sum0_2_0 = bias0, sum0_2_1 = bias1;
    vector sum0_3_0 = bias0, sum0_3_1 = bias1;
    for (long group = 0; group < 4; group += 1) {
        for (const byte *y = in; y < in + 2784; y += 928) {
            for (const byte *x = y; x < y + 48; x += 16) {
                __builtin_prefetch(next);
                next += 64;
                const byte *after = y + 53824;
                for (const byte *c = x; c < x + 16; c += 16) {
                    vector part0_0_0 = begin(sum0_0_0);
                    vector part0_0_1 = begin(sum0_0_1);
                    vector part0_1_0 = begin(sum0_1_0);
                    vector part0_1_1 = begin(sum0_1_1);
                    vector part0_2_0 = begin(sum0_2_0);
                    vector part0_2_1 = begin(sum0_2_1);
                    vector part0_3_0 = begin(sum0_3_0);
                    vector part0_3_1 = begin(sum0_3_1);
                    {
                        const vector w0 = *(vector *)w;
                        const vector w1 = *(vector *)(w + 32);
                        const vector x0_0 = broadcast(c + 0);
                        part0_0_0 = dot4(part0_0_0, x0_0, w0);
                        part0_0_1 = dot4(part0_0_1, x0_0, w1);
                        const vector x0_1 = broadcast(c + 16);
                        part0_1_0 = dot4(part0_1_0, x0_1, w0);
                        part0_1_1 = dot4(part0_1_1, x0_1, w1);
                        const vector x0_2 = broadcast(c + 32);
                        part0_2_0 = dot4(part0_2_0, x0_2, w0);
                        part0_2_1 = dot4(part0_2_1, x0_2, w1);
                        const vector x0_3 = broadcast(c + 48);
                        part0_3_0 = dot4(part0_3_0, x0_3, w0);
                        part0_3_1 = dot4(part0_3_1, x0_3, w1);
                    }
                    {
                        const vector w0 = *(vector *)(w + 64);
                        const vector w1 = *(vector *)(w + 96);
                        const vector x0_0 = broadcast(c + 4);
                        part0_0_0 = dot4(part0_0_0, x0_0, w0);
                        part0_0_1 = dot4(part0_0_1, x0_0, w1);
                        const vector x0_1 = broadcast(c + 20);
                        part0_1_0 = dot4(part0_1_0, x0_1, w0);
                        part0_1_1 = dot4(part0_1_1, x0_1, w1);
                        const vector x0_2 = broadcast(c + 36);
                        part0_2_0 = dot4(part0_2_0, x0_2, w0);
                        part0_2_1 = dot4(part0_2_1, x0_2, w1);
                        const vector x0_3 = broadcast(c + 52);
                        part0_3_0 = dot4(part0_3_0, x0_3, w0);
                        part0_3_1 = dot4(part0_3_1, x0_3, w1);
                    }
                    {
                        const vector w0 = *(vector *)(w + 128);
                        const vector w1 = *(vector *)(w + 160);
                        const vector x0_0 = broadcast(c + 8);
                        part0_0_0 = dot4(part0_0_0, x0_0, w0);
                        part0_0_1 = dot4(part0_0_1, x0_0, w1);
                        const vector x0_1 = broadcast(c + 24);
                        part0_1_0 = dot4(part0_1_0, x0_1, w0);
                        part0_1_1 = dot4(part0_1_1, x0_1, w1);
                        const vector x0_2 = broadcast(c + 40);
                        part0_2_0 = dot4(part0_2_0, x0_2, w0);
                        part0_2_1 = dot4(part0_2_1, x0_2, w1);
                        const vector x0_3 = broadcast(c + 56);
                        part0_3_0 = dot4(part0_3_0, x0_3, w0);
                        part0_3_1 = dot4(part0_3_1, x0_3, w1);
                    }
                    {
                        const vector w0 = *(vector *)(w + 192);
                        const vector w1 = *(vector *)(w + 224);
                        const vector x0_0 = broadcast(c + 12);
                        part0_0_0 = dot4(part0_0_0, x0_0, w0);
                        part0_0_1 = dot4(part0_0_1, x0_0, w1);
                        const vector x0_1 = broadcast(c + 28);
                        part0_1_0 = dot4(part0_1_0, x0_1, w0);
                        part0_1_1 = dot4(part0_1_1, x0_1, w1);
                        const vector x0_2 = broadcast(c + 44);
                        part0_2_0 = dot4(part0_2_0, x0_2, w0);
                        part0_2_1 = dot4(part0_2_1, x0_2, w1);
                        const vector x0_3 = broadcast(c + 60);
                        part0_3_0 = dot4(part0_3_0, x0_3, w0);
                        part0_3_1 = dot4(part0_3_1, x0_3, w1);
                    }
                    sum0_0_0 = end(sum0_0_0, part0_0_0);
                    sum0_0_1 = end(sum0_0_1, part0_0_1);
                    sum0_1_0 = end(sum0_1_0, part0_1_0);
                    sum0_1_1 = end(sum0_1_1, part0_1_1);
                    sum0_2_0 = end(sum0_2_0, part0_2_0);
                    sum0_2_1 = end(sum0_2_1, part0_2_1);
                    sum0_3_0 = end(sum0_3_0, part0_3_0);
                    sum0_3_1 = end(sum0_3_1, part0_3_1);
                    w += 256;
                    __builtin_prefetch(after);
                    after += 64;
                }
            }
        }
        in += 53824;
    }
    const floats factor0 = *(floats *)(factors + 64);
    const floats factor1 = *(floats *)(factors + 72);
    put(result + 0, scaled(sum0_0_0, factor0), scaled(sum0_0_1, factor1));
    put(result + 16, scaled(sum0_1_0, factor0), scaled(sum0_1_1, factor1));
    put(result + 32, scaled(sum0_2_0, factor0), scaled(sum0_2_1, factor1));
    put(result + 48, scaled(sum0_3_0, factor0), scaled(sum0_3_1, factor1));
}

static void conv2d_3x3_64x56x56b1_to_64x56x56_relu(
    const byte *weights, const byte *input, byte *output, long from, long to, long parts
) {
    for (long panel = 0; panel < 4; panel += 1) {
        const float *factors = (const float *)weights + panel * 16;
        const byte *w = weights + 768 + panel * 9216;
        const byte *next = w + 9216;
        const byte *in = input + 0;
        byte *result = output + panel * 50176 + 0;
        for (long y = 56 * from / parts; y < 56 * to / parts; y += 1) {
            for (long x = 0; x < 56; x += 4) {
                conv2d_3x3_64x56x56b1_to_64x56x56_relu_1x4(w, factors, in + y * 928 + x * 16,
                    result + y * 896 + x * 16, next);
                next += 64;
            }
        }
    }
}

static void layer1_0_conv2(const float *weights, float *memory, long from, long to, long parts) {
    conv2d_3x3_64x56x56b1_to_64x56x56_relu((const byte *)weights + 35904, (byte *)memory + 2596096, (byte *)memory + 1592576, from, to, parts);
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
