"""The operators of ResNet-50, each of which writes the C function that computes it for one exact shape.

They take descriptions of the machine (`Isa`) and of their input and output (`Buffer`), and return (name, lines):
the name of a C function, whose parameters are those in `define`, and the text that defines it. Every size, stride and
offset is a number in that text. Only `softmax` is computed here, by NumPy: it is no part of the network.
Its output is divided into parts; a call computes those from `from` up to, but not including, `to`.

Words: the channels of one vector are a group, the channels of a register tile a panel.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray

from buffers import Buffer
from compiler import Isa

Function = tuple[str, list[str]]

VECTORS = 2  # of output channels in a register tile
LINE = 16  # float32 numbers in a cache line


def conv2d(
    isa: Isa,
    x: Buffer,
    out: Buffer,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    add: bool = False,
    relu: bool = True,
) -> Function:
    """Convolve x, `add` what is in `out` already (the residual), apply ReLU. The weights include the batch norm.

    x needs a border of at least `padding`. Weights: see `weight_layout`.
    """
    name = f"conv2d_{kernel}x{kernel}_{x}_to_{out}" + "_stride2" * (stride == 2) + "_add" * add + "_relu" * relu
    if kernel == stride == 1 and not x.border and not out.border:  # all pixels may count as one row
        x, out = (Buffer(b.name, (1, b.height * b.width, b.channels), b.lanes) for b in (x, out))
    panel, panels, chunks = weight_layout(isa, x, out, kernel)
    chunk = panel * x.channels // chunks * kernel**2
    block_rows, block_columns, number = block_shape(isa.pixels, out.height, out.width)
    rows, columns = split(out.height, block_rows), split(out.width, block_columns)
    share = ceil(chunk / LINE / (pieces(rows) * pieces(columns) * number))  # cache lines to prefetch in each tile
    # Every thread reads all of the input if they divide the output's channels, all weights if they divide its pixels.
    by_pixels = panels * chunks * chunk < x.size
    tiles, calls = [], []
    for height, first_y, end_y in rows:
        row = []
        for width, first_x, end_x in columns:
            block = []
            for n, pixels in enumerate(np.array_split(list(np.ndindex(height, width)), number)):
                tile = f"{name}_{height}x{width}" + f"_{n}" * (number > 1)
                tiles += conv2d_tile(tile, isa, x, out, kernel, stride, pixels, chunks, add, relu, share)
                block += [
                    f"{tile}(w, bias, in + y * {stride * x.row} + x * {stride * x.lanes},",
                    f"    result + y * {out.row} + x * {out.lanes}, next, chunk);",
                    f"next += {share * LINE};",
                ]
            one_row = by_pixels and out.height == 1
            row += loop("x", *part(first_x, end_x, width, one_row), width, block)
        calls += loop("y", *part(first_y, end_y, height, by_pixels and out.height > 1), height, row)
    first, end = part(0, panels, 1, not by_pixels)
    following = f"w + {chunk}"
    if not by_pixels:  # after a thread's last panel comes its first of the next chunk
        following += f" * (panel + 1 < {end} ? 1 : {panels} + {first} - panel)"
    body = loop("panel", first, end, 1, [
        f"const float *bias = weights + panel * {panel};",
        f"const float *w = weights + {out.channels} + (chunk * {panels} + panel) * {chunk};",
        f"const float *next = {following};",
        f"const float *in = input + chunk * {x.size // chunks} + {x.at(-padding, -padding)};",
        f"float *result = output + panel * {VECTORS * out.plane} + {out.at(0, 0)};",
        *calls,
    ])  # fmt: skip
    return name, tiles + define(name, loop("chunk", 0, chunks, 1, body))


def part(start: int, end: int, step: int = 1, divided: bool = True) -> tuple[int | str, int | str]:
    """Return a call's bounds in the loop from start to end, as C text; those of the whole loop if not divided."""
    if not divided:
        return start, end
    count, base, scale = (end - start) // step, f"{start} + " * (start > 0), f" * {step}" * (step > 1)
    return f"{base}{count} * from / parts{scale}", f"{base}{count} * to / parts{scale}"


def weight_layout(isa: Isa, x: Buffer, out: Buffer, kernel: int) -> tuple[int, int, int]:
    """Return (channels in a panel, number of panels, number of chunks) of a convolution's weights.

    In memory: the bias of every output channel; then for each chunk of input channels, for each panel of output
    channels, an array (groups of input channels, kernel, kernel, channels of a group, channels of the panel). That is
    the order in which they are used, so that they stream from memory once, from the first byte to the last.
    """
    panel = VECTORS * isa.width
    total = 4 * panel * x.channels * kernel**2
    # A chunk's weights stay in a cache for all tiles; each further chunk is one more pass over the output. A 1x1 kernel
    # uses a pixel once for a panel, so weights must be in the first-level cache. A larger one uses it several times.
    near = isa.l1 if total <= isa.l1 else isa.l1 * 3 // 4  # all of it, or with room for pixels
    most = near if kernel == 1 else isa.l2 // 6  # a sixth each for this chunk and the next; the rest is for pixels
    chunks = next((n for n in divisors(x.groups) if total <= n * most), x.groups)
    return panel, out.channels // panel, chunks


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def block_shape(pixels: int, height: int, width: int) -> tuple[int, int, int]:
    """Return (rows, columns, register tiles) of blocks that cover height x width in the fewest tiles; the widest.

    A block is one tile; or all of an output of at most 64 pixels, cut across the ends of rows if that saves two tiles.
    """
    blocks = [(min(height, pixels // columns), columns, 1) for columns in range(min(pixels, width), 0, -1)]
    blocks += [(height, width, ceil(height * width / pixels))] * (height * width <= 64)
    return min(blocks, key=lambda block: ceil(height / block[0]) * ceil(width / block[1]) * block[2] + (block[2] > 1))


def split(extent: int, most: int) -> list[tuple[int, int, int]]:
    """Cut `extent` into the fewest pieces of at most `most`, as equal as can be: [(size, start, end), ...].

    56 by at most 6 gives [(6, 0, 36), (5, 36, 56)]: six pieces of 6, four of 5.
    """
    small, larger = divmod(extent, ceil(extent / most))
    middle = larger * (small + 1)
    return [span for span in ((small + 1, 0, middle), (small, middle, extent)) if span[1] < span[2]]


def pieces(spans: list[tuple[int, int, int]]) -> int:
    return sum((end - start) // size for size, start, end in spans)


def conv2d_tile(name, isa, x, out, kernel, stride, pixels, chunks, add, relu, share):
    """Write the function that computes `pixels`, [(row, column), ...], of one panel of output channels.

    Its sums stay in registers over all input channels of a chunk. On the way it prefetches at least `share` cache
    lines of the weights that come next.
    """
    sums = [(row, column, v) for row, column in pixels for v in range(VECTORS)]
    places = [row * out.row + column * out.lanes + v * out.plane for row, column, v in sums]
    names = [f"sum{row}_{column}_{v}" for row, column, v in sums]
    bias = [vector_at("bias", v * isa.width) for _, _, v in sums]
    kept = [vector_at("result", place) for place in places]
    first = assign(names, [f"{b} + {k}" for b, k in zip(bias, kept)] if add else bias)
    last = assign(kept, map(relu_of, names) if relu else names)
    if chunks > 1:
        first = [*braces("if (chunk == 0)", first), *braces("else", assign(names, kept))]
        last = [*braces(f"if (chunk == {chunks - 1})", last), *braces("else", assign(kept, names))]
    if add:  # the residual under the next tile (in the network, all are in one row) is in no near cache
        step = len(pixels) * out.lanes
        lines = [place + step for place, (_, column, _) in zip(places, sums) if column * isa.width % LINE == 0]
        first = [f"__builtin_prefetch(result + {line}, 1);" for line in lines] + first
    body = conv2d_sums(isa, x, kernel, stride, pixels, x.groups // chunks, share)
    head = [f"static __attribute__((noinline)) void {name}("]
    head += ["    const float *w, const float *bias, const float *in, float *result, const float *next, long chunk"]
    declared = [f"vector {', '.join(names[n : n + VECTORS])};" for n in range(0, len(names), VECTORS)]
    return [*head, *braces(")", [*declared, *first, *body, *last]), ""]


def conv2d_sums(isa, x, kernel, stride, pixels, groups, share):
    """Write the loops of a tile: over groups of channels, kernel rows, kernel columns, and channels of a group."""
    lanes, taps = x.lanes, kernel
    if x.groups == 1:  # the channels of a whole kernel row lie side by side
        lanes, taps = lanes * kernel, 1
    unroll = max(n for n in range(1, LINE // isa.width + 1) if lanes % n == 0)
    channels = []
    for lane in range(unroll):
        starts = [isa.width * (lane * VECTORS + v) for v in range(VECTORS)]
        lines = [f"const vector w{v} = {vector_at('w', start)};" for v, start in enumerate(starts)]
        for row, column in pixels:
            lines.append(f"const float x{row}_{column} = c[{stride * (row * x.row + column * x.lanes) + lane}];")
            lines += [f"sum{row}_{column}_{v} += x{row}_{column} * w{v};" for v in range(VECTORS)]
        channels += braces("", lines) if unroll > 1 else lines
    channels.append(f"w += {unroll * VECTORS * isa.width};")
    begin = []
    if groups > 1:  # fetch these pixels of the next group of channels while this one is used
        begin = [f"const float *after = y + {x.plane + stride * (pixels[0][0] * x.row + pixels[0][1] * x.lanes)};"]
        channels += ["__builtin_prefetch(after);", f"after += {LINE};"]
    # Many lines at once would wait for each other: up to four in each tap, or else in each turn of the inner loop.
    turns = groups * kernel * taps
    often = share > 4 * turns
    count = ceil(share / (turns * lanes // unroll if often else turns))
    lines = ["next", *(f"next + {n * LINE}" for n in range(1, count))]
    prefetch = [f"__builtin_prefetch({line});" for line in lines] + [f"next += {count * LINE};"]
    tap = begin + loop("c", "x", f"x + {lanes}", unroll, channels + prefetch * often, "const float *")
    row = loop("x", "y", f"y + {taps * x.lanes}", x.lanes, prefetch * (not often) + tap, "const float *")
    rows = loop("y", "in", f"in + {kernel * x.row}", x.row, row, "const float *")
    return loop("group", 0, groups, 1, [*rows, f"in += {x.plane};"])


def vector_at(pointer, offset):
    return f"*(vector *)({pointer} + {offset})" if offset else f"*(vector *){pointer}"


def assign(targets, values):
    return [f"{target} = {value};" for target, value in zip(targets, values)]


def relu_of(value):
    """C's vectors have no maximum: keep the bits of what is not negative. NaN stays NaN, as in NumPy."""
    return f"(vector)((mask){value} & ~({value} < 0.0f))"


def larger(value, other):
    return f"(vector)(((mask){value} & ({value} > {other})) | ((mask){other} & ~({value} > {other})))"


def max_pool(isa: Isa, x: Buffer, out: Buffer, kernel: int, stride: int, padding: int) -> Function:
    """Take each channel's largest value in every kernel x kernel window.

    The border's zeros do not matter, nor does a start from zero: x has been through ReLU.
    """
    name = f"max_pool_{x}_to_{out}"
    corner = f"input + {x.at(-padding, -padding)} + group * {x.plane} + y * {stride * x.row} + x * {stride * x.lanes}"
    pixel = [f"const float *corner = {corner};", "vector next, value = {0};"]
    for offset in (row * x.row + column * x.lanes for row in range(kernel) for column in range(kernel)):
        pixel += [f"next = {vector_at('corner', offset)};", f"value = {larger('next', 'value')};"]
    return name, define(name, each_vector(out, [*pixel, "*result = value;"]))


def subsample(isa: Isa, x: Buffer, out: Buffer, stride: int) -> Function:
    """Keep every stride-th pixel of every stride-th row: all that a 1x1 convolution with this stride looks at."""
    name = f"subsample_{x}_to_{out}"
    kept = f"input + group * {x.plane} + y * {stride * x.row} + x * {stride * x.lanes}"
    return name, define(name, each_vector(out, [f"*result = *(const vector *)({kept});"]))


def average_pool(isa: Isa, x: Buffer, out: Buffer) -> Function:
    """Average each channel over the whole picture."""
    name = f"average_pool_{x}_to_{out}"
    total = ["vector sum = {0};"]
    total += loop("pixel", 0, x.height * x.width, 1, [
        f"sum += *(const vector *)(input + group * {x.plane} + pixel * {x.lanes});"
    ])  # fmt: skip
    return name, define(name, each_vector(out, [*total, f"*result = sum / {x.height * x.width}.0f;"]))


def fully_connected(isa: Isa, x: Buffer, out: Buffer) -> Function:
    """weight x + bias: a 1x1 convolution of one pixel."""
    return conv2d(isa, x, out, kernel=1, relu=False)


def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn logits (classes,) into probabilities that sum to one; the largest is subtracted so that exp stays finite."""
    exponentials = np.exp(x - x.max())
    return exponentials / exponentials.sum()


def define(name, body):
    parameters = "const float *weights, const float *input, float *output, long from, long to, long parts"
    return [f"static void {name}(", f"    {parameters}", *braces(")", body), ""]


def each_vector(out, body):
    """Write the loops over all vectors of `out`; `body` sees each as *result. The largest number is kept."""
    place = f"output + {out.at(0, 0)} + group * {out.plane} + y * {out.row} + x * {out.lanes}"
    body = [f"vector *result = (vector *)({place});", *body, f"most = {larger('*result', 'most')};"]
    body = loop("y", 0, out.height, 1, loop("x", 0, out.width, 1, body))
    body = loop("group", *part(0, out.groups), 1, body)
    return ["vector most = {0};", *body, "keep_largest(output, most, from, to);"]


def loop(variable, start, end, step, body, kind="long "):
    return braces(f"for ({kind}{variable} = {start}; {variable} < {end}; {variable} += {step})", body)


def braces(header, body):
    """Return the lines `header { body }`, the body indented."""
    return [f"{header} {{".lstrip(), *("    " + line for line in body), "}"]
