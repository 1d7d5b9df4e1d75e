/* The definition: one output after the other, each a sum over the kernel's rows and columns and the input's channels. */
#include "layer.h"

void layer(
    const float input[restrict ROWS][COLUMNS][IN], const float weights[restrict OUT][KERNEL][KERNEL][IN],
    const float *bias, const float *residual, float output[restrict HEIGHT][WIDTH][OUT]
) {
    for (long y = 0; y < HEIGHT; y += 1) {
        for (long x = 0; x < WIDTH; x += 1) {
            for (long o = 0; o < OUT; o += 1) {
                float sum = 0.0f;
                for (long ky = 0; ky < KERNEL; ky += 1) {
                    for (long kx = 0; kx < KERNEL; kx += 1) {
                        for (long c = 0; c < IN; c += 1) sum += input[y + ky][x + kx][c] * weights[o][ky][kx][c];
                    }
                }
                output[y][x][o] = sum;
            }
        }
    }
    passes(OUT, bias, residual, (float *)output);
}
