"""Winograd's convolution: a 3x3 convolution in fewer multiplications.

A tile of m x n outputs depends on a tile of inputs, whose sides are m + 2 and n + 2, or 2 m + 1 and 2 n + 1 with
stride 2. With three constant matrices for the columns and three for the rows, the same ones if m = n,

    output = A^T [(G weight G^T) * (B^T input B)] A

where * multiplies the numbers at equal positions: one multiplication for each input instead of 9 m n (Lavin and Gray,
"Fast Algorithms for Convolutional Neural Networks", CVPR 2016, equation 8). With many channels, each position is a
matrix product of its own: a 1x1 convolution whose pixels are the tiles. G is applied when the weights are packed, in
float64; B by `winograd_input`, a step before the convolution; A by the convolution.
"""

from fractions import Fraction
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from buffers import Buffer
from compiler import Isa
from ops import (
    LINE,
    VECTORS,
    Function,
    braces,
    conv2d_tile,
    define,
    divisors,
    loop,
    part,
    pieces,
    relu_of,
    split,
    vector_at,
    weight_layout,
)

Matrix = list[list[Fraction]]
Size = tuple[int, int]  # rows and columns of a tile's outputs

SIZES = ((1, 2), (1, 3), (2, 2), (1, 4), (2, 3), (2, 4), (3, 3), (3, 4), (4, 4))  # the fewer weights, the earlier
POINTS = (0, 1, -1, 2, -2)  # of the derivation, which evaluates polynomials there, and at infinity
PRODUCT_BYTES = 512 * 1024  # of a panel's products, at most: they lie on a thread's stack, and a worker's has 1 MiB
WAIT = 1.5  # vectors multiplied and added in the time in which one weight arrives from memory
TRANSFORM = 28  # multiply-adds in the time in which one number is transformed, loaded and stored


def sides(size: Size, stride: int) -> tuple[int, int]:
    """Return the rows and columns of inputs that a tile depends on; it takes a product for each of these inputs."""
    return stride * size[0] + 3 - stride, stride * size[1] + 3 - stride


def tile_size(isa: Isa, x: Buffer, out: Buffer, stride: int = 1) -> Size | None:
    """Return the size of tiles with which a 3x3 convolution should be fastest, or None if it is without Winograd.

    The estimates count multiply-adds for each pair of channels. More weights must save a twelfth.
    """
    wait = WAIT * isa.width
    best, least = None, 9 * max(out.height * out.width, wait)
    for size in SIZES:
        positions, tiles = prod(sides(size, stride)), ceil(out.height / size[0]) * ceil(out.width / size[1])
        transforms = TRANSFORM * (1 / x.channels + 1 / out.channels)
        estimate = positions * (max(tiles, wait) + tiles * transforms)
        if products_fit(isa, out, size, stride) and estimate < 11 / 12 * least:
            best, least = size, estimate
    return best


def products_fit(isa, out, size, stride, rows=1):
    """Whether one panel's products, for some rows of tiles, may be kept: they are used again at once, from a cache."""
    numbers = prod(sides(size, stride)) * rows * ceil(out.width / size[1]) * VECTORS * isa.width
    return 4 * numbers <= min(isa.l2 // 2, PRODUCT_BYTES)


def tiled_shape(isa: Isa, out: Buffer, size: Size, stride: int) -> tuple[int, int]:
    """Return (height, width) of the transformed input: a column for each tile of a strip, a row for each position.

    A strip is some rows of tiles; the strips follow one another. All weights are read once for each strip. If there are
    fewer of them than inputs, a strip is one row, and its inputs stay in a cache, too; else as many as may be.
    """
    positions, rows, columns = prod(sides(size, stride)), ceil(out.height / size[0]), ceil(out.width / size[1])
    strip = 1
    if out.channels >= rows * columns:
        strip = max(n for n in divisors(rows) if products_fit(isa, out, size, stride, n))
    return rows // strip * positions, strip * columns


def winograd_input(isa: Isa, x: Buffer, out: Buffer, size: Size, stride: int) -> Function:
    """Compute B^T tile B for every tile of x, which needs a border of 1. out: see `tiled_shape`."""
    name, functions = f"winograd{size[0]}x{size[1]}_input_{x}" + "_stride2" * (stride == 2), []
    extents = [ceil(extent / stride) for extent in (x.height, x.width)]  # of the convolution's output
    positions, columns = prod(sides(size, stride)), ceil(extents[1] / size[1])
    down, right = size[0] * stride * x.row, size[1] * stride * x.lanes  # to the next tile

    def transform(height, width):
        tile = f"{name}_{height}x{width}_tile"
        functions.extend(input_tile(tile, x, out, size, stride, height, width))
        return [f"{tile}(in + y * {down} + x * {right}, result + (row * {columns} + x) * {out.lanes});"]

    body = loop("group", *part(0, x.groups), 1, [
        f"const float *in = input + group * {x.plane} + {x.at(-1, -1)};",
        *loop("strip", 0, out.height // positions, 1, [
            f"float *result = output + group * {out.plane} + strip * {positions * out.row};",
            *each_tile(extents, size, out.width // columns, transform),
        ]),
    ])  # fmt: skip
    return name, functions + define(name, body)


def input_tile(name, x, out, size, stride, height, width):
    """Write the function that transforms a tile with height x width outputs; what lies beyond their inputs is zero."""

    rows, columns = sides((height, width), stride)

    def read(row, column):
        return vector_at("in", row * x.row + column * x.lanes) if row < rows and column < columns else None

    def write(row, column, value):
        return [f"{vector_at('result', (row * sides(size, stride)[1] + column) * out.row)} = {value};"]

    down, right = (matrices(extent, stride)[2] for extent in size)
    return tile_function(name, "const float *in, float *result", both_sides(down, right, read, write))


def winograd_conv2d(isa: Isa, x: Buffer, out: Buffer, size: Size, stride: int) -> Function:
    """Multiply transformed tiles x by the weights, transform back, add the bias, apply ReLU.

    Unlike in `conv2d`, all input channels are one chunk: with at most 512 of them those of a position are 64 KB.
    In memory: the bias of every output channel; then for each panel of output channels, for each position in a tile,
    a matrix (input channels, channels of the panel).
    """
    name, functions = f"winograd{size[0]}x{size[1]}_{x}_to_{out}" + "_stride2" * (stride == 2), []
    panel, panels, _ = weight_layout(isa, x, out, kernel=1)
    positions, columns, matrix = prod(sides(size, stride)), ceil(out.width / size[1]), panel * x.channels
    products = Buffer("products", (positions, x.width, panel), out.lanes)
    spans, multiply = split(x.width, isa.pixels), []
    share = ceil(matrix / LINE / pieces(spans))  # cache lines of weights to prefetch in each register tile
    for width, first, end in spans:
        tile, row = f"{name}_1x{width}", list(np.ndindex(1, width))
        functions += conv2d_tile(tile, isa, x, products, 1, 1, row, 1, add=False, relu=False, share=share)
        multiply += loop("x", first, end, width, [
            f"{tile}(w, (const float *)zeros, in + x * {x.lanes}, result + x * {products.lanes}, next, 0);",
            f"next += {share * LINE};",
        ])  # fmt: skip

    def transform(height, width):
        tile = f"{name}_{height}x{width}_output"
        functions.extend(output_tile(tile, products, out, size, stride, height, width))
        return [
            f"{tile}(product + (row * {columns} + x) * {products.lanes}, bias,",
            f"    result + y * {size[0] * out.row} + x * {size[1] * out.lanes});",
        ]

    # As in `conv2d`: divide the output's channels or, in strips, its pixels.
    strips = x.height // positions
    by_strips = panels * positions * matrix < x.size
    body = loop("panel", *part(0, panels, 1, not by_strips), 1, [
        f"const float *w = weights + {out.channels} + panel * {positions * matrix};",
        *loop("position", 0, positions, 1, [
            f"const float *next = w + {matrix};",
            f"const float *in = input + (strip * {positions} + position) * {x.row};",
            f"float *result = products + position * {products.row};",
            *multiply,
            f"w += {matrix};",
        ]),
        *loop("v", 0, VECTORS, 1, [
            f"const float *bias = weights + panel * {panel} + v * {isa.width};",
            f"const float *product = products + v * {products.plane};",
            f"float *result = output + (panel * {VECTORS} + v) * {out.plane} + {out.at(0, 0)};",
            *each_tile((out.height, out.width), size, x.width // columns, transform),
        ]),
    ])  # fmt: skip
    return name, functions + define(name, [
        f"const vector zeros[{VECTORS}] = {{{{0}}}};",
        f"float products[{products.size}] __attribute__((aligned({4 * LINE})));",
        *loop("strip", *part(0, strips, 1, by_strips), 1, body),
    ])  # fmt: skip


def output_tile(name, products, out, size, stride, height, width):
    """Write the function that computes A^T tile A for a vector of channels, of which height x width are kept."""

    def read(row, column):
        return vector_at("product", (row * sides(size, stride)[1] + column) * products.row)

    def write(row, column, value):
        if row >= height or column >= width:
            return []
        place, name = vector_at("result", row * out.row + column * out.lanes), f"y{row}_{column}"
        return [f"const vector {name} = {value} + *(vector *)bias;", f"{place} = {relu_of(name)};"]

    down, right = (matrices(extent, stride)[0] for extent in size)
    body = both_sides(down, right, read, write)
    return tile_function(name, "const float *product, const float *bias, float *result", body)


def tile_function(name, parameters, body):
    return [f"static __attribute__((noinline)) void {name}(", f"    {parameters}", *braces(")", body), ""]


def each_tile(extents, size, rows, transform):
    """Write the loops over the tiles of strip number `strip`, of so many rows, of an output of these extents.

    transform(height, width) returns the lines for a tile with so many outputs: those at the right and bottom edge may
    have fewer. In these lines y and x number the tiles, and `row` the strip's rows.
    """
    lines = []
    for height, first_y, end_y in edges(extents[0], size[0]):
        row = []
        for width, first_x, end_x in edges(extents[1], size[1]):
            row += loop("x", first_x, end_x, 1, transform(height, width))
        lines += braces(f"if (y >= {first_y} && y < {end_y})", row)
    return loop("row", 0, rows, 1, [f"long y = strip * {rows} + row;", *lines])


def edges(extent, most):
    """Return [(outputs of a tile, first tile, end), ...]: the whole tiles, then the one that the edge cuts off."""
    whole, rest = divmod(extent, most)
    return [span for span in ((most, 0, whole), (rest, whole, whole + (rest > 0))) if span[1] < span[2]]


def both_sides(down, right, read, write):
    """Write down tile right^T for a tile of vectors: all its columns first, then the rows of what that gives.

    read(row, column) returns an input, or None for zero; write(row, column, value) the lines that take a result.
    """
    lines = []
    for column in range(len(right[0])):
        inputs = {f"d{row}_{column}": read(row, column) for row in range(len(down[0]))}
        lines += [f"const vector {name} = {value};" for name, value in inputs.items() if value]
        terms = [name if value else None for name, value in inputs.items()]
        lines += [f"const vector t{row}_{column} = {weighted_sum(factors, terms)};" for row, factors in enumerate(down)]
    for row in range(len(down)):
        terms = [f"t{row}_{column}" for column in range(len(right[0]))]
        for column, factors in enumerate(right):
            lines += write(row, column, weighted_sum(factors, terms))
    return lines


def weighted_sum(factors, terms):
    """Return the sum of factor * term as C text, without what is zero."""
    text = ""
    for factor, term in zip(factors, terms):
        if factor and term:
            product = term if abs(factor) == 1 else f"{float(abs(factor))}f * {term}"
            text += (" - " if factor < 0 else " + ") + product
    return text.removeprefix(" + ") or "(vector){0}"


def matrices(extent: int, stride: int = 1) -> tuple[Matrix, Matrix, Matrix]:
    """Return A^T (extent, side), G (side, 3) and B^T (side, side) for rows of `extent` outputs, all of Fractions.

    One output is the sum of three products, whatever the stride. Stride 2 is two convolutions with stride 1
    (polyphase): taps 0 and 2 meet the even inputs; tap 1 meets the odd ones, a product for each output.
    """
    unit = [[Fraction(row == column) for column in range(2 * extent + 1)] for row in range(2 * extent + 1)]
    if extent == 1:
        return [[Fraction(1)] * 3], unit, unit
    if stride == 1:
        return toom_cook(extent, 3)
    at, g, bt = toom_cook(extent, 2)
    at = [[*row, *one[:extent]] for row, one in zip(at, unit)]
    g = [[even, Fraction(0), odd] for even, odd in g] + [unit[1][:3]] * extent
    bt = [[row[n // 2] * (n % 2 == 0) for n in range(2 * extent + 1)] for row in bt] + unit[1::2]
    return at, g, bt


def toom_cook(extent: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return the matrices for `extent` outputs of a filter with stride 1.

    Toom and Cook's multiplication of polynomials, transposed (Lavin and Gray 2016, section 4): column j of A^T and row
    j of G hold the powers of point j, row j of B^T the polynomial that is zero at all other points.
    """
    points = [Fraction(point) for point in POINTS[: extent + taps - 2]]
    at = [[point**power for point in points] + [Fraction(power == extent - 1)] for power in range(extent)]
    g, bt = [], []
    for point in points:
        others = [other for other in points if other != point]
        g.append([point**power / prod(point - other for other in others) for power in range(taps)])
        bt.append([*polynomial(others), Fraction(0)])
    return at, [*g, [Fraction(power == taps - 1) for power in range(taps)]], [*bt, polynomial(points)]


def polynomial(zeros):
    """Return the coefficients of the product of all (x - zero), the constant first."""
    coefficients = [Fraction(1)]
    for zero in zeros:
        coefficients = [low - zero * high for low, high in zip([0, *coefficients], [*coefficients, 0])]
    return coefficients


def transform_weights(weight: NDArray[np.float64], size: Size, stride: int) -> NDArray[np.float64]:
    """Return G weight G^T for every pair of channels: (out, 1, 1, positions * in), from (out, 3, 3, in), float64."""
    down, right = (np.array(matrices(extent, stride)[1], dtype=np.float64) for extent in size)
    return np.einsum("ak,oklc,bl->oabc", down, weight, right, optimize=True).reshape(len(weight), 1, 1, -1)
