"""Ozaki's scheme: float32 convolutions by AMX, which multiplies matrices of bytes.

A number becomes an integer of 24 bits, and that three bytes, digits from -128 to 127:

    x = unit (65536 x0 + 256 x1 + x2)

All numbers of an activation have one unit, and so have all weights of an output channel. A product of two numbers is
nine products of digits. Of these, six are computed; the other three are about as large as what float32 rounds off:

    2^32 x0 w0 + 2^24 (x0 w1 + x1 w0) + 2^16 (x0 w2 + x1 w1 + x2 w0)

Over all input channels each of the three sums is exact: it needs no more than 32 bits (Ozaki, Ogita, Oishi and Rump,
"Error-free transformations of matrix multiplication", 2012; in bytes: Ootomo, Ozaki and Yokota, "DGEMM on integer
matrix multiplication unit", 2024). `ozaki_input`, a step before the convolution, makes the digits of its input. The
largest number, from which the unit follows, was kept by the step that wrote it: see `keep_largest` in codegen.py.

AMX has eight registers, called tiles, of up to 16 rows of 64 bytes. One instruction multiplies two of them like
matrices: 16 pixels of 64 input channels by these channels' weights for 16 output channels, 16384 products. Of the eight

    0 to 5  hold the three sums, each for two halves of the pixels
    6       holds a digit of activations, of half of the pixels, which lie at equal distances in memory
    7       holds a digit of weights
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray

from buffers import Buffer
from compiler import Isa
from ops import LINE, Function, braces, define, larger, loop, part, pieces, relu_of, split, vector_at

DIGITS = 3
LARGEST = 127 * 65536  # of all integers
GROUP = 64  # input channels that are multiplied at once
ROWS = 16  # pixels in a half, at most
PANEL = 16  # output channels in a tile
TILE = 256  # float32 numbers in the memory of a tile of weights, 1 KiB
ROUND = 2**23  # added to a float32 number from 0 to 2^23, it leaves that number, rounded, in the last 23 bits

TILES = f"""
#include <immintrin.h>
typedef int sum __attribute__((vector_size({4 * PANEL}), may_alias));

/* Tiles 0 to 6 have a row for each of so many pixels, tile 7 one for each four input channels. The table is static
   since gcc takes its first eight bytes for all that the instruction reads. */
#define tile_shapes(pixels) \\
    static const struct {{ \\
        unsigned char palette, start, unused[14]; \\
        short bytes[16]; /* of a row */ \\
        unsigned char rows[16]; \\
    }} shapes = {{ \\
        .palette = 1, /* the only one */ \\
        .bytes = {{64, 64, 64, 64, 64, 64, 64, 64}}, \\
        .rows = {{pixels, pixels, pixels, pixels, pixels, pixels, pixels, 16}}, \\
    }}; \\
    _tile_loadconfig(&shapes)

static inline vector floats(sum integers) {{
    return __builtin_convertvector(integers, vector);
}}
"""


def digits_shape(x: Buffer) -> tuple[tuple[int, int, int], int]:
    """Return shape and lanes of a buffer for the digits of x, four of them in a number's place.

    A pixel has the first digits of a group of channels, then their second and third: a row of a tile each.
    """
    return (x.height, x.width, x.channels * DIGITS // 4), GROUP * DIGITS // 4


def ozaki_input(isa: Isa, x: Buffer, out: Buffer) -> Function:
    """Write the digits of x, which is not negative: it has been through ReLU. out: see `digits_shape`.

    The bytes of word n are those of the channels n, 16 + n, 32 + n and 48 + n of a group. So are the weights'.
    Before out lies the unit.
    """
    name, vectors = f"ozaki_input_{x}_to_{out}", []
    for n, number in enumerate("abcd"):
        value = vector_at("in", n * x.plane)
        vectors.append(f"mask {number} = (mask)({value} * scale + {ROUND}.0f) & {ROUND - 1};")
    for digit in reversed(range(DIGITS)):
        vectors.append(f"result[{digit}] = (a & 255) | (b & 255) << 8 | (c & 255) << 16 | d << 24;")
        vectors += [f"{number} = ({number} + 128) >> 8;" for number in "abcd" if digit]
    body = loop("column", 0, x.width, 1, [
        f"const float *in = input + group * {4 * x.plane} + {x.at(0, 0)} + row * {x.row} + column * {x.lanes};",
        f"float *place = output + group * {out.plane} + {out.at(0, 0)} + row * {out.row} + column * {out.lanes};",
        "mask *result = (mask *)place;",
        *vectors,
    ])  # fmt: skip
    return name, define(name, [
        "const float most = largest(input, parts);",  # below 1e-30, the scale would soon be infinite
        f"const float scale = most > 1e-30f ? {LARGEST}.0f / most : 0.0f;",
        *braces("if (from == 0)", [f"output[-1] = most / {LARGEST}.0f;"]),
        *loop("group", 0, out.groups, 1, loop("row", *part(0, x.height), 1, body)),
    ])  # fmt: skip


def ozaki_conv2d(
    isa: Isa, x: Buffer, out: Buffer, kernel: int, stride: int, padding: int, add: bool, relu: bool
) -> Function:
    """Convolve the digits x, `add` what is in `out` already (the residual), apply ReLU. Otherwise as `conv2d`.

    In memory: for each panel of output channels their biases and units; then for each panel an array (groups of input
    channels, kernel, kernel, digits, 16 words of a group, channels of the panel, 4 bytes).
    """
    name = f"ozaki_{kernel}x{kernel}_{x}_to_{out}" + "_stride2" * (stride == 2) + "_add" * add + "_relu" * relu
    if kernel == stride == 1 and not x.border and not out.border:  # all pixels may count as one row
        x, out = (Buffer(b.name, (1, b.height * b.width, b.channels), b.lanes) for b in (x, out))
    panels, size = out.channels // PANEL, PANEL * x.channels * kernel**2
    rows, columns = split(out.height, 2), split(out.width, ROWS if out.height > 1 else 2 * ROWS)
    share = ceil(size / LINE / (pieces(rows) * pieces(columns)))  # cache lines to prefetch in each tile
    # Weights or input, whichever is less, is read again and again, from the second-level cache; the other only once.
    by_pixels = panels * size < x.size
    tiles, calls = [], []
    for height, first_y, end_y in rows:
        row = []
        for width, first_x, end_x in columns:
            tile, both = f"{name}_{height}x{width}", halves(out, height, width)
            tiles += ozaki_tile(tile, x, out, kernel, stride, both, add, relu, 0 if by_pixels else share)
            block = [
                f"{tile}(w, factors, unit, in + y * {stride * x.row} + x * {stride * x.lanes},",
                f"    result + y * {out.row} + x * {out.lanes}, next, &most);",
            ]
            if by_pixels:
                block = each_panel(x, out, size, padding, 0, panels, block)
            else:
                block.append(f"next += {share * LINE};")
            row += loop("x", *part(first_x, end_x, width, by_pixels and out.height == 1), width, block)
        calls += loop("y", *part(first_y, end_y, height, by_pixels and out.height > 1), height, row)
    if not by_pixels:
        calls = each_panel(x, out, size, padding, *part(0, panels), calls)
    most = max(count for _, _, count in halves(out, rows[0][0], columns[0][0]))
    return name, tiles + define(name, [
        "const float unit = input[-1];",
        "vector most = {0};",
        f"tile_shapes({most});",
        *calls,
        "_tile_release();",
        "keep_largest(output, most, from, to);",
    ])  # fmt: skip


def each_panel(x, out, size, padding, first, end, body):
    return loop("panel", first, end, 1, [
        f"const float *factors = weights + panel * {2 * PANEL};",
        f"const float *w = weights + {2 * out.channels} + panel * {size};",
        f"const float *next = w + {size};",
        f"const float *in = input + {x.at(-padding, -padding)};",
        f"float *result = output + panel * {out.plane} + {out.at(0, 0)};",
        *body,
    ])  # fmt: skip


def halves(out, height, width):
    """Return [(row, column, pixels), ...] of a block's halves: its rows, or both parts of one if there is one row."""
    if out.height > 1 or width == 1:
        return [(row, 0, width) for row in range(height)]
    middle = ceil(width / 2)
    return [(0, 0, middle), (0, middle, width - middle)]


def ozaki_tile(name, x, out, kernel, stride, halves, add, relu, share):
    """Write the function that computes the pixels of `halves` of one panel of output channels.

    On the way it prefetches at least `share` cache lines of the weights that come next.
    """
    sums = [(2 * s + h, s, h) for s in range(DIGITS) for h in range(len(halves))]
    group = []
    for b in range(DIGITS):
        group.append(f"_tile_loadd(7, w + {b * TILE}, 64);")
        for a in range(DIGITS - b):
            for h, (row, column, _) in enumerate(halves):
                start = stride * (row * x.row + column * x.lanes) + a * GROUP // 4
                group.append(f"_tile_loadd(6, x + {start}, {4 * stride * x.lanes});")
                group.append(f"_tile_dpbssd({2 * (a + b) + h}, 6, 7);")
    group.append(f"w += {DIGITS * TILE};")
    if count := ceil(share / (x.groups * kernel**2)):
        group += [f"__builtin_prefetch(next + {n * LINE}, 0, 2);" for n in range(count)]  # into the second-level cache
        group.append(f"next += {count * LINE};")
    row = loop("x", "y", f"y + {kernel * x.lanes}", x.lanes, group, "const float *")
    rows = loop("y", "in", f"in + {kernel * x.row}", x.row, row, "const float *")
    head = [f"static __attribute__((noinline)) void {name}("]
    head += ["    const float *w, const float *factors, float unit, const float *in, float *result, const float *next,"]
    head += ["    vector *most"]
    return [*head, *braces(")", [
        *(f"_tile_zero({tile});" for tile, _, _ in sums),
        *loop("group", 0, x.groups, 1, [*rows, f"in += {x.plane};"]),
        f"sum sums[{DIGITS}][2][{ROWS}]; /* no instruction moves a tile to vectors */",
        *(f"_tile_stored({tile}, sums[{s}][{h}], 64);" for tile, s, h in sums),
        f"const vector bias = *(vector *)factors, factor = {vector_at('factors', PANEL)} * (65536.0f * unit);",
        "vector largest = *most;",
        *(line for h in range(len(halves)) for line in ozaki_end(out, h, *halves[h], add, relu)),
        "*most = largest;",
    ]), ""]  # fmt: skip


def ozaki_end(out, half, row, column, count, add, relu):
    """Write the loop that puts the sums of a half together, and the results into memory."""
    return loop("n", 0, count, 1, [
        f"vector *place = (vector *)(result + {row * out.row + column * out.lanes} + n * {out.lanes});",
        f"vector low = floats(sums[1][{half}][n]) * 256.0f + floats(sums[2][{half}][n]);",
        f"vector value = (floats(sums[0][{half}][n]) * 65536.0f + low) * factor + bias;",
        *["value += *place;"] * add,
        *[f"value = {relu_of('value')};"] * relu,
        f"largest = {larger('value', 'largest')};",
        "*place = value;",
    ])  # fmt: skip


def pack_digits(weight: NDArray[np.float64], bias: NDArray, packed: NDArray[np.float32]) -> None:
    """Write weight (out, kernel_h, kernel_w, in) and bias (out,) to `packed` as `ozaki_conv2d` says."""
    channels, kernel_h, kernel_w, _ = weight.shape
    unit = abs(weight).max(axis=(1, 2, 3)) / LARGEST
    unit[unit == 0] = 1  # a channel without weights
    factors = packed[: 2 * channels].reshape(-1, 2, PANEL)
    factors[:, 0], factors[:, 1] = bias.reshape(-1, PANEL), unit.reshape(-1, PANEL)
    integers = np.rint(weight / unit[:, None, None, None]).astype(np.int32)
    integers = integers.reshape(channels // PANEL, PANEL, kernel_h, kernel_w, -1, 4, GROUP // 4)
    integers = integers.transpose(0, 4, 2, 3, 6, 1, 5)
    digits = packed[2 * channels :].view(np.int8)
    digits = digits.reshape(*integers.shape[:4], DIGITS, *integers.shape[4:])
    for digit in reversed(range(DIGITS)):
        digits[:, :, :, :, digit] = integers.astype(np.int8)  # the last eight bits
        integers = (integers + 128) >> 8
