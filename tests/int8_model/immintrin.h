/* The intrinsics of v8_int8/dot.h and v9_ozaki as plain C, after the pseudo-code of Intel's manual: what the instructions
   must do on a machine that has them. A compiler that finds this directory first (-I) takes it for its own immintrin.h. */
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define TYPE(name, element, size) typedef element name __attribute__((vector_size(size), may_alias))
TYPE(__m128i, long long, 16);
TYPE(__m256i, long long, 32);
TYPE(__m512i, long long, 64);
TYPE(__m256, float, 32);
TYPE(__m512, float, 64);

#define FOR(count) for (int n = 0; n < (count); n += 1)
typedef int16_t lane16 __attribute__((may_alias));
typedef int32_t lane32 __attribute__((may_alias));
typedef float lane32f __attribute__((may_alias));

#define U8(x, n) ((const uint8_t *)&(x))[n]
#define S8(x, n) ((const int8_t *)&(x))[n]
#define S16(x, n) ((lane16 *)&(x))[n]
#define S32(x, n) ((lane32 *)&(x))[n]
#define F32(x, n) ((lane32f *)&(x))[n]
#define SATURATED(x, least, most) ((x) < (least) ? (least) : (x) > (most) ? (most) : (x))

static inline int32_t rounded(float x) { /* CVTPS2DQ: half to even; 80000000H where the result does not fit */
    return x >= -2147483648.0f && x < 2147483648.0f ? (int32_t)nearbyintf(x) : INT_MIN;
}

/* VPDPBUSD: unsigned bytes of x times signed bytes of w, four products and the lane added without saturation */
#define DPBUSD(name, vector, lanes) \
    static inline vector name(vector sum, vector x, vector w) { \
        FOR(4 * (lanes)) S32(sum, n / 4) += (int16_t)((uint16_t)U8(x, n) * (int16_t)S8(w, n)); \
        return sum; \
    }
DPBUSD(_mm512_dpbusd_epi32, __m512i, 16)
DPBUSD(_mm256_dpbusd_avx_epi32, __m256i, 8)

/* VPMADDUBSW: pairs of unsigned times signed bytes, added with saturation to 16 bits */
static inline __m256i _mm256_maddubs_epi16(__m256i x, __m256i w) {
    __m256i result;
    FOR(16) {
        int sum = U8(x, 2 * n + 1) * S8(w, 2 * n + 1) + U8(x, 2 * n) * S8(w, 2 * n);
        S16(result, n) = SATURATED(sum, -32768, 32767);
    }
    return result;
}

static inline __m256i _mm256_madd_epi16(__m256i a, __m256i b) {
    __m256i result;
    FOR(8) S32(result, n) = S16(a, 2 * n) * S16(b, 2 * n) + S16(a, 2 * n + 1) * S16(b, 2 * n + 1);
    return result;
}

static inline __m256i _mm256_add_epi16(__m256i a, __m256i b) {
    FOR(16) S16(a, n) = (int16_t)(uint16_t)(S16(a, n) + S16(b, n));
    return a;
}

static inline __m256i _mm256_set1_epi16(int16_t x) {
    __m256i result;
    FOR(16) S16(result, n) = x;
    return result;
}

#define FLOATS(bits, floats, integers, lanes) \
    static inline integers _mm##bits##_cvtps_epi32(floats a) { \
        integers result; \
        FOR(lanes) S32(result, n) = rounded(F32(a, n)); \
        return result; \
    } \
    static inline floats _mm##bits##_cvtepi32_ps(integers a) { \
        floats result; \
        FOR(lanes) F32(result, n) = (float)S32(a, n); \
        return result; \
    } \
    static inline integers _mm##bits##_cvtepi8_epi32(__m128i a) { \
        integers result; \
        FOR(lanes) S32(result, n) = S8(a, n); \
        return result; \
    }
FLOATS(512, __m512, __m512i, 16)
FLOATS(256, __m256, __m256i, 8)

/* VPACKSSDW and VPACKSSWB: within each 128 bits */
#define PACKS(bits, vector) \
    static inline vector _mm##bits##_packs_epi32(vector a, vector b) { \
        vector result; \
        FOR((bits) / 16) { \
            vector *from = n % 8 < 4 ? &a : &b; \
            S16(result, n) = SATURATED(S32(*from, n / 8 * 4 + n % 4), -32768, 32767); \
        } \
        return result; \
    } \
    static inline vector _mm##bits##_packs_epi16(vector a, vector b) { \
        vector result; \
        FOR((bits) / 8) { \
            vector *from = n % 16 < 8 ? &a : &b; \
            ((int8_t *)&result)[n] = SATURATED(S16(*from, n / 16 * 8 + n % 8), -128, 127); \
        } \
        return result; \
    }
PACKS(512, __m512i)
PACKS(256, __m256i)

static inline __m512i _mm512_setr_epi32(int32_t a, int32_t b, int32_t c, int32_t d, int32_t e, int32_t f, int32_t g,
                                        int32_t h, int32_t i, int32_t j, int32_t k, int32_t l, int32_t m, int32_t n,
                                        int32_t o, int32_t p) {
    __m512i result;
    int32_t all[] = {a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p};
    memcpy(&result, all, sizeof all);
    return result;
}

static inline __m512i _mm512_permutexvar_epi32(__m512i order, __m512i a) {
    __m512i result;
    FOR(16) S32(result, n) = S32(a, S32(order, n) & 15);
    return result;
}

static inline __m128i _mm_packs_epi16(__m128i a, __m128i b) {
    __m128i result;
    FOR(16) ((int8_t *)&result)[n] = SATURATED(n < 8 ? S16(a, n) : S16(b, n - 8), -128, 127);
    return result;
}

static inline __m256i _mm256_permute4x64_epi64(__m256i a, int order) {
    return (__m256i){a[order & 3], a[order >> 2 & 3], a[order >> 4 & 3], a[order >> 6 & 3]};
}

static inline __m128i _mm256_extracti128_si256(__m256i a, int half) { return (__m128i){a[2 * half], a[2 * half + 1]}; }
static inline __m128i _mm256_castsi256_si128(__m256i a) { return (__m128i){a[0], a[1]}; }
static inline __m256i _mm512_castsi512_si256(__m512i a) { return (__m256i){a[0], a[1], a[2], a[3]}; }
static inline __m256i _mm256_setzero_si256(void) { return (__m256i){0}; }
static inline void _mm256_storeu_si256(__m256i *to, __m256i a) { memcpy(to, &a, sizeof a); }
static inline __m128i _mm_setzero_si128(void) { return (__m128i){0}; }
static inline __m128i _mm_load_si128(const __m128i *from) { return *from; }
static inline __m128i _mm_loadl_epi64(const __m128i *from) { return (__m128i){*(const long long *)from}; }
static inline void _mm_storeu_si128(__m128i *to, __m128i a) { memcpy(to, &a, sizeof a); }

static inline __m128i _mm_max_epi8(__m128i a, __m128i b) {
    FOR(16) ((int8_t *)&a)[n] = S8(a, n) > S8(b, n) ? S8(a, n) : S8(b, n);
    return a;
}

static inline __m256i _mm256_max_epi8(__m256i a, __m256i b) {
    FOR(32) ((int8_t *)&a)[n] = S8(a, n) > S8(b, n) ? S8(a, n) : S8(b, n);
    return a;
}

/* AMX. LDTILECFG gives tiles their shapes and zeros; rows and bytes beyond a tile's shape become zero with each load. */
struct tile {
    uint8_t rows;
    uint16_t bytes; /* of a row */
    uint8_t at[16][64];
};
static _Thread_local struct tile tiles[8];
#define OUTLINE static __attribute__((noinline, unused)) /* large programs of it compile faster */

OUTLINE void _tile_loadconfig(const void *from) {
    const uint8_t *shapes = from;
    if (shapes[0] != 1) abort(); /* #GP: there is one palette */
    memset(tiles, 0, sizeof tiles);
    FOR(8) {
        memcpy(&tiles[n].bytes, shapes + 16 + 2 * n, 2);
        tiles[n].rows = shapes[48 + n];
        if (tiles[n].bytes > 64 || tiles[n].rows > 16) abort(); /* #GP */
    }
}

OUTLINE void _tile_release(void) { memset(tiles, 0, sizeof tiles); }

OUTLINE void _tile_loadd(int number, const void *from, long distance) {
    struct tile *tile = &tiles[number];
    memset(tile->at, 0, sizeof tile->at);
    FOR(tile->rows) memcpy(tile->at[n], (const char *)from + n * distance, tile->bytes);
}

OUTLINE void _tile_stored(int number, void *to, long distance) {
    FOR(tiles[number].rows) memcpy((char *)to + n * distance, tiles[number].at[n], tiles[number].bytes);
}

OUTLINE void _tile_zero(int number) { memset(tiles[number].at, 0, sizeof tiles[number].at); }

/* TDPBUSD, TDPBSSD: sums (pixels, channels) += bytes (pixels, fours of k), unsigned or signed, times signed ones (fours
   of k, channels, 4). Compilers that are told about wide vectors use them for a row of sums. */
TYPE(row32, int32_t, 64);
TYPE(urow32, uint32_t, 64);
#define TILE_DOT(name, byte) \
    __attribute__((no_sanitize("address"), no_sanitize("undefined"))) /* it reads tiles only */ \
    OUTLINE void name(int sums, int x, int w) { \
        if (tiles[sums].rows != tiles[x].rows || tiles[x].bytes != 4 * tiles[w].rows || \
            tiles[sums].bytes != tiles[w].bytes || sums == x || sums == w || x == w) \
            abort(); /* #UD: shapes do not fit, or one tile twice */ \
        for (int m = 0; m < tiles[sums].rows; m += 1) { \
            row32 sum; \
            memcpy(&sum, tiles[sums].at[m], sizeof sum); \
            for (int k = 0; k < tiles[w].rows; k += 1) { \
                urow32 bytes; \
                memcpy(&bytes, tiles[w].at[k], sizeof bytes); \
                FOR(4) sum += (byte)tiles[x].at[m][4 * k + n] * ((row32)(bytes << (24 - 8 * n)) >> 24); \
            } \
            memcpy(tiles[sums].at[m], &sum, sizeof sum); \
        } \
    }
TILE_DOT(_tile_dpbusd, uint8_t)
TILE_DOT(_tile_dpbssd, int8_t)
