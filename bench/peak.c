// What this machine can do at most: fused multiply-adds from registers, and bytes read from memory.
#include <stddef.h>

enum { BYTES = __BIGGEST_ALIGNMENT__ < 16 ? 16 : __BIGGEST_ALIGNMENT__ };  // of a vector: 64 with AVX-512, 32 with AVX
enum { LANES = BYTES / 4, ACCUMULATORS = 12 };  // 12 chains hide a latency of 4-6 cycles on 2 units, in 16 registers

typedef float vector __attribute__((vector_size(BYTES)));

// Does `count` rounds of one multiply-add a chain. Returns the floating-point operations done.
double multiply_add(size_t count, float *out) {
    vector sum[ACCUMULATORS];
    vector a = {0}, b = {0};
    for (int lane = 0; lane < LANES; lane++) {
        a[lane] = 0.999f + out[0];  // from memory, so that the compiler cannot work the sums out beforehand
        b[lane] = 0.001f + out[0];
    }
    for (int chain = 0; chain < ACCUMULATORS; chain++) sum[chain] = a * (float)chain;  // equal chains would be merged into one
    for (size_t i = 0; i < count; i++) {
        for (int chain = 0; chain < ACCUMULATORS; chain++) sum[chain] = sum[chain] * a + b;
    }
    vector total = sum[0];
    for (int chain = 1; chain < ACCUMULATORS; chain++) total += sum[chain];
    for (int lane = 0; lane < LANES; lane++) out[lane] = total[lane];
    return 2.0 * count * ACCUMULATORS * LANES;
}

// Reads `count` floats (a multiple of 64, 64-byte aligned) and returns their sum.
float read_memory(const float *x, size_t count) {
    vector sum[4] = {{0}};
    const vector *v = (const vector *)x;
    for (size_t i = 0; i < count / LANES; i += 4) {
        for (int chain = 0; chain < 4; chain++) sum[chain] += v[i + chain];
    }
    float total = 0;
    for (int chain = 0; chain < 4; chain++) {
        for (int lane = 0; lane < LANES; lane++) total += sum[chain][lane];
    }
    return total;
}
