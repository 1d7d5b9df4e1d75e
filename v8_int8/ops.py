"""The operators of ResNet-50, each of which writes the C function that computes it for one exact shape.

They take descriptions of the machine (`Isa`) and of their input and output (`Buffer`), and return (name, lines):
the name of a C function, whose parameters are those in `define`, and the text that defines it. Every size, stride and
offset is a number in that text. Only `softmax` is computed here, by NumPy: it is no part of the network.
Its output is divided into parts; a call computes those from `from` up to, but not including, `to`.

Activations are bytes, 0 to 127. The C functions of dot.h multiply and write them; the weights say what they stand for.

Words: the channels of a register tile are a panel, those of a pixel that lie side by side a group: one panel, with
AMX two.
"""

from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

import amx
from buffers import Buffer
from compiler import Isa

Function = tuple[str, list[str]]

VECTORS = 2  # of output channels in a register tile
ZERO = 64  # the byte that stands for zero where no ReLU cuts off what is negative
RUN = 16  # input channels between `begin` and `end`, at most
LINE = 64  # bytes of a cache line


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
    """Convolve x, `add` what is in `out` already (the residual). The weights include the batch norm.

    x needs a border of at least `padding`. Weights: see `weight_layout`. Bytes end at 0: that is ReLU; without `relu`,
    ZERO stands for zero.
    """
    name = f"conv2d_{kernel}x{kernel}_{x}_to_{out}" + "_stride2" * (stride == 2) + "_add" * add + "_relu" * relu
    if kernel == stride == 1 and not x.border and not out.border:  # all pixels may count as one row
        x, out = (Buffer(b.name, (1, b.height * b.width, b.channels), b.lanes, dtype=b.dtype) for b in (x, out))
    panel, panels, size = weight_layout(isa, x, out, kernel)
    shape = amx.block_shape if isa.tiles else block_shape
    block_rows, block_columns, number = shape(isa.pixels, out.height, out.width)
    rows, columns = split(out.height, block_rows), split(out.width, block_columns)
    share = ceil(size / LINE / (pieces(rows) * pieces(columns) * number))  # cache lines to prefetch in each tile
    # Every thread reads all of the input if they divide the output's channels, all weights if they divide its pixels.
    by_pixels = panels * size < x.size
    tiles, calls = [], []
    for height, first_y, end_y in rows:
        row = []
        for width, first_x, end_x in columns:
            block = []
            for n, pixels in enumerate(np.array_split(list(np.ndindex(height, width)), number)):
                tile = f"{name}_{height}x{width}" + f"_{n}" * (number > 1)
                tiles += conv2d_tile(tile, isa, x, out, kernel, stride, pixels, panels, add, share)
                block += [
                    f"{tile}(w, factors, in + y * {stride * x.row} + x * {stride * x.lanes},",
                    f"    result + y * {out.row} + x * {out.lanes}, next);",
                    f"next += {share * LINE};",
                ]
            one_row = by_pixels and out.height == 1
            row += loop("x", *part(first_x, end_x, width, one_row), width, block)
        calls += loop("y", *part(first_y, end_y, height, by_pixels and out.height > 1), height, row)
    first, end = part(0, panels, 1, not by_pixels)
    place, of_group = f"panel * {out.plane}", out.lanes // panel
    if of_group > 1:
        place = f"panel / {of_group} * {out.plane} + panel % {of_group} * {panel}"
    body = loop("panel", first, end, 1, [
        f"const float *factors = (const float *)weights + panel * {panel};",
        f"const byte *w = weights + {12 * panels * panel} + panel * {size};",
        f"const byte *next = w + {size};",
        f"const byte *in = input + {x.at(-padding, -padding)};",
        f"byte *result = output + {place} + {out.at(0, 0)};",
        *calls,
    ])  # fmt: skip
    if isa.tiles:
        body = amx.configured(body, rows[0][0], columns[0][0], window(x, kernel)[2])
    return name, tiles + define(name, body)


def part(start: int, end: int, step: int = 1, divided: bool = True) -> tuple[int | str, int | str]:
    """Return a call's bounds in the loop from start to end, as C text; those of the whole loop if not divided."""
    if not divided:
        return start, end
    count, base, scale = (end - start) // step, f"{start} + " * (start > 0), f" * {step}" * (step > 1)
    return f"{base}{count} * from / parts{scale}", f"{base}{count} * to / parts{scale}"


def weight_layout(isa: Isa, x: Buffer, out: Buffer, kernel: int) -> tuple[int, int, int]:
    """Return (channels in a panel, number of panels, bytes of a panel's weights) of a convolution.

    In memory: for every output channel its bias, int32, its factor and the residual's, float32; then for each panel an
    array (groups of input channels, `window`'s rows, columns and fours of channels, channels of the panel, 4). That is
    the order in which they are used, so that they stream from memory once, from the first byte to the last.
    """
    panel = VECTORS * isa.width
    return panel, out.channels // panel, panel * x.groups * prod(window(x, kernel))


def window(x: Buffer, kernel: int) -> tuple[int, int, int]:
    """Return the kernel's rows, columns, and channels of a group. A row of a picture counts as channels, 24 for 21."""
    return (kernel, 1, ceil(kernel * x.lanes / 4) * 4) if x.channels == 3 else (kernel, kernel, x.lanes)


def run_length(lanes: int) -> int:
    """Return how many channels lie between `begin` and `end`, of `lanes` that follow each other: 12 of a picture's."""
    return max(length for length in range(4, RUN + 1, 4) if lanes % length == 0)


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


def conv2d_tile(name, isa, x, out, kernel, stride, pixels, panels, add, share):
    """Write the function that computes `pixels`, [(row, column), ...], of one panel of output channels.

    Its sums, with AVX2 their `part`s, stay in registers. On the way it prefetches at least `share` cache
    lines of the weights that come next.
    """
    places = [row * out.row + column * out.lanes for row, column in pixels]
    if isa.tiles:
        names, first, last = amx.names(pixels), amx.begin(pixels), amx.end(pixels)
    else:
        names = [[f"sum{row}_{column}_{v}" for v in range(VECTORS)] for row, column in pixels]
        first = [f"const vector bias{v} = {vector_at('factors', isa.width * v)};" for v in range(VECTORS)]
        first += [f"vector {', '.join(f'{name} = bias{v}' for v, name in enumerate(pair))};" for pair in names]
        last = []
    for n, kind in enumerate(("factor", "residual")[: 1 + add], start=1):
        starts = [isa.width * (n * panels * VECTORS + v) for v in range(VECTORS)]
        loads = [vector_at("factors", start, "floats") for start in starts]
        last += [f"const floats {kind}{v} = {load};" for v, load in enumerate(loads)]
    for place, pair in zip(places, names):
        values = [f"scaled({name}, factor{v})" for v, name in enumerate(pair)]
        if add:
            values = [f"{x} + get(result + {place + v * isa.width}) * residual{v}" for v, x in enumerate(values)]
        last.append(f"put(result + {place}, {', '.join(values)});")
        if out.dtype == np.float32:  # the logits
            last[-1:] = assign([vector_at("result", 4 * isa.width * v, "floats") for v in range(VECTORS)], values)
    if add:  # the residual under the next tile (in the network, all are in one row) is in no near cache
        step = len(pixels) * out.lanes
        lines = [place + step for place, (_, column) in zip(places, pixels) if column * out.lanes % LINE == 0]
        first = [f"__builtin_prefetch(result + {line}, 1);" for line in lines] + first
    body = conv2d_sums(isa, x, kernel, stride, pixels, x.groups, share)
    head = [f"static __attribute__((noinline)) void {name}("]
    head += ["    const byte *w, const float *factors, const byte *in, byte *result, const byte *next"]
    return [*head, *braces(")", [*first, *body, *last]), ""]


def dots(isa, x, stride, pixels, unroll):
    """Write the products of `unroll` channels that follow each other."""
    names = [f"{row}_{column}_{v}" for row, column in pixels for v in range(VECTORS)]
    channels = [f"vector part{name} = begin(sum{name});" for name in names]
    for lane in range(0, unroll, 4):
        starts = [isa.width * (lane * VECTORS + 4 * v) for v in range(VECTORS)]
        lines = [f"const vector w{v} = {vector_at('w', start)};" for v, start in enumerate(starts)]
        for row, column in pixels:
            at, pixel = stride * (row * x.row + column * x.lanes) + lane, f"{row}_{column}"
            lines.append(f"const vector x{pixel} = broadcast(c + {at});")
            lines += [f"part{pixel}_{v} = dot4(part{pixel}_{v}, x{pixel}, w{v});" for v in range(VECTORS)]
        channels += braces("", lines)
    return channels + [f"sum{name} = end(sum{name}, part{name});" for name in names]


def conv2d_sums(isa, x, kernel, stride, pixels, groups, share):
    """Write the loops of a tile: over groups of channels, kernel rows, kernel columns, and channels of a group."""
    _, taps, lanes = window(x, kernel)
    unroll = lanes if isa.tiles else run_length(lanes)
    channels = amx.dots(x, stride, pixels) if isa.tiles else dots(isa, x, stride, pixels, unroll)
    channels.append(f"w += {unroll * VECTORS * isa.width};")
    begin = []
    if groups > 1 and not isa.tiles:  # fetch these pixels of the next group of channels while this one is used
        begin = [f"const byte *after = y + {x.plane + stride * (pixels[0][0] * x.row + pixels[0][1] * x.lanes)};"]
        channels += ["__builtin_prefetch(after);", f"after += {LINE};"]
    # Many lines at once would wait for each other: up to four in each tap, or else in each turn of the inner loop.
    turns = groups * kernel * taps
    often = share > 4 * turns
    count = ceil(share / (turns * lanes // unroll if often else turns))
    hint = ", 0, 2" * isa.tiles  # into the second-level cache
    lines = [f"next{hint}", *(f"next + {n * LINE}{hint}" for n in range(1, count))]
    prefetch = [f"__builtin_prefetch({line});" for line in lines] + [f"next += {count * LINE};"]
    tap = begin + loop("c", "x", f"x + {lanes}", unroll, channels + prefetch * often, "const byte *")
    row = loop("x", "y", f"y + {taps * x.lanes}", x.lanes, prefetch * (not often) + tap, "const byte *")
    rows = loop("y", "in", f"in + {kernel * x.row}", x.row, row, "const byte *")
    return loop("group", 0, groups, 1, [*rows, f"in += {x.plane};"])


def vector_at(pointer, offset, kind="vector"):
    return f"*({kind} *)({pointer} + {offset})" if offset else f"*({kind} *){pointer}"


def assign(targets, values):
    return [f"{target} = {value};" for target, value in zip(targets, values)]


def quantize(isa: Isa, x: Buffer, out: Buffer) -> Function:
    """Turn the picture's numbers into bytes, zero into ZERO. As bytes they must be below 2^31, as normalised ones are.

    A row ends with a whole vector, so its last two may share numbers.
    """
    name, numbers, step = f"quantize_{out}", x.width * x.lanes, VECTORS * isa.width
    values = [f"{vector_at('from', v * isa.width, 'anywhere')} * factor + {ZERO}.0f" for v in range(VECTORS)]
    row = loop("n", 0, numbers, step, [
        f"const long start = n < {numbers - step} ? n : {numbers - step};",
        f"const float *from = (const float *)(input + y * {x.row}) + start;",
        f"byte *to = output + {out.at(0, 0)} + y * {out.row} + start;",
        f"put(to, {', '.join(values)});",
    ])  # fmt: skip
    rows = loop("y", *part(0, out.height), 1, row)
    return name, define(name, ["const float factor = *(const float *)weights;", *rows])


def max_pool(isa: Isa, x: Buffer, out: Buffer, kernel: int, stride: int, padding: int) -> Function:
    """Take each channel's largest value in every kernel x kernel window.

    The border's zeros do not matter, nor does a start from zero: bytes are not negative. C's vectors have no maximum.
    """
    name = f"max_pool_{x}_to_{out}"
    corner = f"input + {x.at(-padding, -padding)} + group * {x.plane} + y * {stride * x.row} + x * {stride * x.lanes}"
    pixel = [f"const byte *corner = {corner};", "bytes next, most = {0};"]
    for offset in (row * x.row + column * x.lanes for row in range(kernel) for column in range(kernel)):
        pixel += [
            f"next = {vector_at('corner', offset, 'bytes')};",
            "most = (next & (next > most)) | (most & ~(next > most));",
        ]
    return name, define(name, each_vector(out, [*pixel, "*result = most;"]))


def subsample(isa: Isa, x: Buffer, out: Buffer, stride: int) -> Function:
    """Keep every stride-th pixel of every stride-th row: all that a 1x1 convolution with this stride looks at."""
    name = f"subsample_{x}_to_{out}"
    kept = f"input + group * {x.plane} + y * {stride * x.row} + x * {stride * x.lanes}"
    return name, define(name, each_vector(out, [f"*result = *(const bytes *)({kept});"]))


def average_pool(isa: Isa, x: Buffer, out: Buffer) -> Function:
    """Average each channel over the whole picture. A sum is exact, as is every integer below 2^24 in float32."""
    name = f"average_pool_{x}_to_{out}"
    starts = range(0, x.lanes, isa.width)
    total = [f"floats sum{start} = {{0}};" for start in starts]
    total += loop("pixel", 0, x.height * x.width, 1, [
        f"sum{start} += get(input + group * {x.plane} + pixel * {x.lanes} + {start});" for start in starts
    ])  # fmt: skip
    for start in starts[::VECTORS]:
        means = (f"sum{start + v * isa.width} * *(const float *)weights" for v in range(VECTORS))
        total.append(f"put((byte *)result + {start}, {', '.join(means)});")
    return name, define(name, each_vector(out, total))


def fully_connected(isa: Isa, x: Buffer, out: Buffer) -> Function:
    """weight x + bias: a 1x1 convolution of one pixel."""
    return conv2d(isa, x, out, kernel=1, relu=False)


def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn logits (classes,) into probabilities that sum to one; the largest is subtracted so that exp stays finite."""
    exponentials = np.exp(x - x.max())
    return exponentials / exponentials.sum()


def define(name, body):
    parameters = "const byte *weights, const byte *input, byte *output, long from, long to, long parts"
    return [f"static void {name}(", f"    {parameters}", *braces(")", body), ""]


def each_vector(out, body):
    """Write the loops over all vectors of `out`; `body` sees each as *result."""
    place = f"output + {out.at(0, 0)} + group * {out.plane} + y * {out.row} + x * {out.lanes}"
    body = loop("x", 0, out.width, 1, [f"bytes *result = (bytes *)({place});", *body])
    return loop("group", *part(0, out.groups), 1, loop("y", 0, out.height, 1, body))


def loop(variable, start, end, step, body, kind="long "):
    return braces(f"for ({kind}{variable} = {start}; {variable} < {end}; {variable} += {step})", body)


def braces(header, body):
    """Return the lines `header { body }`, the body indented."""
    return [f"{header} {{".lstrip(), *("    " + line for line in body), "}"]
