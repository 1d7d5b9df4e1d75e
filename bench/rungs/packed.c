/* Packed weights: a panel's lie together, in the order in which a tile reads them. */
#include "layer.h"

typedef const float Input[ROWS][COLUMNS][LANES], Weights[IN / LANES][KERNEL][KERNEL][LANES][VECTORS][LANES];
typedef float Output[HEIGHT][WIDTH][LANES];

static inline __attribute__((always_inline)) void tile(
    const int pixels, long panel, long y, long x, Input *input, Weights *weights, Output *output
) {
    vector sum[SMALL + 1][VECTORS] = {0};
    const vector *w = (const vector *)weights[panel];
    for (long group = 0; group < IN / LANES; group += 1) {
        for (long ky = 0; ky < KERNEL; ky += 1) {
            for (long kx = 0; kx < KERNEL; kx += 1) {
                for (long c = 0; c < LANES; c += 1) {
                    for (int p = 0; p < pixels; p += 1) {
                        const float value = input[group][y + ky][x + p + kx][c];
                        for (int v = 0; v < VECTORS; v += 1) sum[p][v] += value * w[v];
                    }
                    w += VECTORS;
                }
            }
        }
    }
    for (int p = 0; p < pixels; p += 1) {
        for (int v = 0; v < VECTORS; v += 1) *(vector *)output[panel * VECTORS + v][y][x + p] = sum[p][v];
    }
}

void layer(
    Input *restrict input, Weights *restrict weights, const float *bias, const float *residual, Output *restrict output
) {
    for (long panel = 0; panel < OUT / PANEL; panel += 1) {
        for (long y = 0; y < HEIGHT; y += 1) {
            for (long x = 0; x < WIDE; x += SMALL + 1) tile(SMALL + 1, panel, y, x, input, weights, output);
            for (long x = WIDE; x < WIDTH; x += SMALL) tile(SMALL, panel, y, x, input, weights, output);
        }
    }
    passes(LANES, bias, residual, (float *)output);
}
