/* Channels in blocks: groups of a vector in memory, and at a time a panel of output channels whose sums stay in registers. */
#include "layer.h"

void layer(
    const float input[restrict IN / LANES][ROWS][COLUMNS][LANES],
    const float weights[restrict KERNEL][KERNEL][IN][OUT / PANEL][VECTORS][LANES],
    const float *bias, const float *residual, float output[restrict OUT / LANES][HEIGHT][WIDTH][LANES]
) {
    for (long panel = 0; panel < OUT / PANEL; panel += 1) {
        for (long y = 0; y < HEIGHT; y += 1) {
            for (long x = 0; x < WIDTH; x += 1) {
                vector sum[VECTORS] = {0};
                for (long group = 0; group < IN / LANES; group += 1) {
                    for (long ky = 0; ky < KERNEL; ky += 1) {
                        for (long kx = 0; kx < KERNEL; kx += 1) {
                            for (long c = 0; c < LANES; c += 1) {
                                const float value = input[group][y + ky][x + kx][c];
                                const vector *w = (const vector *)weights[ky][kx][group * LANES + c][panel];
                                for (int v = 0; v < VECTORS; v += 1) sum[v] += value * w[v];
                            }
                        }
                    }
                }
                for (int v = 0; v < VECTORS; v += 1) *(vector *)output[panel * VECTORS + v][y][x] = sum[v];
            }
        }
    }
    passes(LANES, bias, residual, (float *)output);
}
