/* Bias, residual and ReLU at the registers: sums begin as bias + residual, and are rectified before they are stored. */
#include "layer.h"

enum { UNROLL = LANES < 16 ? 16 / LANES : 1 };

typedef const float Input[ROWS][COLUMNS][LANES], Weights[IN / LANES][KERNEL][KERNEL][LANES][VECTORS][LANES];
typedef float Output[HEIGHT][WIDTH][LANES];

enum { /* cache lines of a panel's weights, and each tile's share of them */
    LINES = IN * KERNEL * KERNEL * PANEL / 16, SHARE = (LINES - 1) / (TILES * HEIGHT) + 1
};

static inline __attribute__((always_inline)) void tile(
    const int pixels, long panel, long y, long x, Input *input, Weights *weights,
    const float (*bias)[VECTORS][LANES], Output *residual, Output *output, const float *next
) {
    vector sum[SMALL + 1][VECTORS];
    #pragma GCC unroll 16
    for (int p = 0; p < pixels; p += 1) {
        #pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v += 1) {
            sum[p][v] = *(vector *)bias[panel][v];
            if (RESIDUAL) sum[p][v] += *(vector *)residual[panel * VECTORS + v][y][x + p];
        }
    }
    const vector *w = (const vector *)weights[panel];
    for (long group = 0; group < IN / LANES; group += 1) {
        if (group < SHARE) __builtin_prefetch(next + group * 16, 0, 2);
        for (long ky = 0; ky < KERNEL; ky += 1) {
            for (long kx = 0; kx < KERNEL; kx += 1) {
                for (long c = 0; c < LANES; c += UNROLL) {
                    __builtin_prefetch(input[group + 1][y + ky][x + c]);
                    #pragma GCC unroll 16
                    for (int u = 0; u < UNROLL; u += 1) {
                        #pragma GCC unroll 16
                        for (int p = 0; p < pixels; p += 1) {
                            const float value = input[group][y + ky][x + p + kx][c + u];
                            #pragma GCC unroll 16
                            for (int v = 0; v < VECTORS; v += 1) sum[p][v] += value * w[v];
                        }
                        w += VECTORS;
                    }
                }
            }
        }
    }
    #pragma GCC unroll 16
    for (int p = 0; p < pixels; p += 1) {
        #pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v += 1) *(vector *)output[panel * VECTORS + v][y][x + p] = relu(sum[p][v]);
    }
}

void layer(
    Input *restrict input, Weights *restrict weights, const float (*bias)[VECTORS][LANES],
    Output *residual, Output *output /* may be the same */
) {
    for (long panel = 0; panel < OUT / PANEL; panel += 1) {
        const float *next = (const float *)weights[panel + 1];
        for (long y = 0; y < HEIGHT; y += 1) {
            for (long x = 0; x < WIDE; x += SMALL + 1, next += SHARE * 16) {
                tile(SMALL + 1, panel, y, x, input, weights, bias, residual, output, next);
            }
            for (long x = WIDE; x < WIDTH; x += SMALL, next += SHARE * 16) {
                tile(SMALL, panel, y, x, input, weights, bias, residual, output, next);
            }
        }
    }
}
