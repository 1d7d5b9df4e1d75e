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
