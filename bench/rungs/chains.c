/* No rung: multiply-adds in CHAINS chains. Those of a chain wait for one another, those of different chains do not. */
typedef float vector __attribute__((vector_size(4 * LANES)));

float chains(long count, float factor) {
    vector sum[CHAINS], x = (vector){0} + factor;
    #pragma GCC unroll 16
    for (int n = 0; n < CHAINS; n += 1) sum[n] = x * (float)n; /* equal ones would be merged into one */
    for (long i = 0; i < count; i += 1) {
        #pragma GCC unroll 16
        for (int n = 0; n < CHAINS; n += 1) sum[n] = sum[n] * x + x;
    }
    #pragma GCC unroll 16
    for (int n = 1; n < CHAINS; n += 1) sum[0] += sum[n];
    return sum[0][0];
}
