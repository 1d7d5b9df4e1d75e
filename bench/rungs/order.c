/* Another order of the loops: the output's channels innermost, whose sums do not depend on one another. */
#include "layer.h"

void layer(
    const float input[restrict ROWS][COLUMNS][IN], const float weights[restrict KERNEL][KERNEL][IN][OUT],
    const float *bias, const float *residual, float output[restrict HEIGHT][WIDTH][OUT]
) {
    for (long y = 0; y < HEIGHT; y += 1) {
        for (long x = 0; x < WIDTH; x += 1) {
            for (long o = 0; o < OUT; o += 1) output[y][x][o] = 0.0f;
            for (long ky = 0; ky < KERNEL; ky += 1) {
                for (long kx = 0; kx < KERNEL; kx += 1) {
                    for (long c = 0; c < IN; c += 1) {
                        for (long o = 0; o < OUT; o += 1) {
                            output[y][x][o] += input[y + ky][x + kx][c] * weights[ky][kx][c][o];
                        }
                    }
                }
            }
        }
    }
    passes(OUT, bias, residual, (float *)output);
}
