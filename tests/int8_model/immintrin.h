/* The intrinsics of v8_int8/dot.h as plain C, after the pseudo-code of Intel's manual: what the instructions must do on a
   machine that has them. A compiler that finds this directory first (-I) takes it for its own immintrin.h. */
#include <limits.h>
#include <math.h>
#include <stdint.h>
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

static inline __m128i _mm512_cvtsepi32_epi8(__m512i a) { /* VPMOVSDB: with signed saturation */
    __m128i result;
    FOR(16) ((int8_t *)&result)[n] = SATURATED(S32(a, n), -128, 127);
    return result;
}

static inline __m256i _mm256_packs_epi32(__m256i a, __m256i b) { /* VPACKSSDW: within each half */
    __m256i result;
    FOR(16) {
        __m256i *from = n % 8 < 4 ? &a : &b;
        S16(result, n) = SATURATED(S32(*from, n / 8 * 4 + n % 4), -32768, 32767);
    }
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
static inline __m128i _mm_setzero_si128(void) { return (__m128i){0}; }
static inline __m128i _mm_load_si128(const __m128i *from) { return *from; }
static inline __m128i _mm_loadl_epi64(const __m128i *from) { return (__m128i){*(const long long *)from}; }
static inline void _mm_storeu_si128(__m128i *to, __m128i a) { memcpy(to, &a, sizeof a); }

static inline __m128i _mm_max_epi8(__m128i a, __m128i b) {
    FOR(16) ((int8_t *)&a)[n] = S8(a, n) > S8(b, n) ? S8(a, n) : S8(b, n);
    return a;
}
