/* What all rungs share: the layer's sizes, the machine's vectors, and three passes over the output.

   The command line defines KERNEL, HEIGHT, WIDTH, IN, OUT and RESIDUAL (the layer), LANES, VECTORS and PIXELS (the
   register tile). SPARE: panels of unused weights at a row's end, for an experiment. The input has its border of zeros already; a 1x1 convolution takes all pixels as one row. */

enum { ROWS = HEIGHT + KERNEL - 1, COLUMNS = WIDTH + KERNEL - 1, PANEL = VECTORS * LANES };

typedef float vector __attribute__((vector_size(4 * LANES), may_alias));
typedef int mask __attribute__((vector_size(4 * LANES), may_alias));

/* C's vectors have no maximum: keep the bits of what is not negative. */
static inline vector relu(vector x) {
    return (vector)((mask)x & ~(x < 0.0f));
}

/* A row is covered by the fewest tiles of at most PIXELS. Those before pixel WIDE have one more than those after it. */
enum { TILES = (WIDTH + PIXELS - 1) / PIXELS, SMALL = WIDTH / TILES, WIDE = WIDTH % TILES * (SMALL + 1) };

/* Bias, residual and ReLU as three passes. Channels lie in groups of `lanes`; all in one: channels-last. */
static inline void passes(long lanes, const float *bias, const float *residual, float *output) {
    const long size = (long)OUT * HEIGHT * WIDTH, group = lanes * HEIGHT * WIDTH;
    for (long i = 0; i < size; i += LANES) *(vector *)(output + i) += *(vector *)(bias + i / group * lanes + i % lanes);
    for (long i = 0; RESIDUAL && i < size; i += LANES) *(vector *)(output + i) += *(vector *)(residual + i);
    for (long i = 0; i < size; i += LANES) *(vector *)(output + i) = relu(*(vector *)(output + i));
}
