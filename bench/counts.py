"""What each version does for a picture: floating-point operations, and bytes that its operations read and write.

An operation moves each array that it reads once, and each that it writes twice, since a cache line that is to be
written is read first; an array that is written over an input moves twice in all. Whether the bytes come from memory or
from a cache is not counted but measured: a version whose arrays stay in a cache is faster than memory would allow.

v1's operations are those of its innermost loop. v2 to v4 are counted from the network's table, as their operators are
written; from v5 on from the versions' own steps.
"""

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from common.architecture import FLOAT32, Layer, layers
from common.versions import VERSIONS, load_version

SLOT, OBJECT = 8, 24  # bytes of a place in a list, and of a Python float
TURN = 2 * (SLOT + OBJECT) + 2 * OBJECT  # a multiply-add of v1 reads two numbers, and makes a product and a sum
POOLED = 9  # numbers of a window of the max pool


@dataclass(frozen=True)
class Work:
    """Of one picture. `passes`: bytes of all between the products. `tensors`: those read from the file; `read` their
    bytes."""

    flops: float  # all that it does, which is not what the definition asks for
    products: float  # bytes of the matrix products, or of all steps
    passes: float = 0
    read: float = 0
    tensors: int = 0
    operators: int = 0  # called
    written: float = 0  # bytes of the arrays that NumPy makes for it

    @property
    def bytes(self) -> float:
        return self.products + self.passes + 2 * self.read  # a large copy reads and writes, without the extra read


def work(version: str, image_size: int, isa: str = "avx2", num_classes: int = 1000) -> Work:
    """Count a version's picture. isa: of the versions that generate code, as they name it."""
    if version == VERSIONS[0]:
        return loops(layers(image_size, num_classes))
    if version in VERSIONS[1:4]:
        return arrays(layers(image_size, num_classes), VERSIONS.index(version) + 1)
    loaded = load_version(version)
    network = loaded.resnet50.Network(image_size, num_classes, loaded.compiler.ISAS[isa])
    return steps(loaded, network.steps)


def loops(described: list[Layer]) -> Work:
    turns, read = sum(layer.multiply_adds for layer in described), numbers(described)
    # Reading the file makes an object of each number.
    return Work(2.0 * turns, TURN * turns, (SLOT + OBJECT) * read, FLOAT32 * read, tensors(described))


def arrays(described: list[Layer], step: int) -> Work:
    """v2, v3 and v4: step 2, 3 and 4. All but `flops` and `operators` are float32 numbers until the end."""
    flops = products = passes = written = operators = 0
    pass_moves = 2 if step == 4 else 3  # arrays, of one with one input: in place, or to a new array
    batch_norms = 3 if step == 2 else 1
    conv1, *others, fc = described
    for layer in (conv1, *others):
        out, pixels, read = prod(layer.out_shape), prod(layer.out_shape[:2]), prod(layer.in_shape)
        if padding := layer.kernel // 2:
            height, width, channels = layer.in_shape
            padded = (height + 2 * padding) * (width + 2 * padding) * channels
            passes, written, read = passes + read + 2 * padded, written + padded, padded
        if layer.kernel > 1 or layer.stride > 1:
            columns = pixels * layer.weights // layer.out_shape[2]  # im2col's matrix
            passes, written, read = passes + read + 2 * columns, written + columns, columns
        products += read + layer.weights + 2 * out
        rectified, added = "downsample" not in layer.name, layer.name.endswith("conv3")
        element_wise = batch_norms + rectified + added
        passes += out * (pass_moves * element_wise + added)  # an addition reads one array more
        written += out * (1 + element_wise) + 3 * layer.out_shape[2] * (
            step == 2
        )  # what scales a batch norm's channels
        flops += layer.flops + out * element_wise
        operators += 2 + rectified + added
    stem, pooled, features = prod(conv1.out_shape), prod(others[0].in_shape), prod(others[-1].out_shape)
    padded = (conv1.out_shape[0] + 2) * (conv1.out_shape[1] + 2) * conv1.out_shape[2]
    passes += stem + 2 * padded + POOLED * pooled * (pass_moves + 1) + features
    written += padded + POOLED * pooled + fc.in_shape[2] + 2 * fc.out_shape[2]
    products += fc.weights
    flops += fc.flops + POOLED * pooled + features
    moved = Work(flops, FLOAT32 * products, FLOAT32 * passes, operators=operators + 3, written=FLOAT32 * written)
    if step > 2:
        return moved if step == 3 else replace(moved, written=0)
    return replace(moved, read=FLOAT32 * numbers(described), tensors=tensors(described))


def steps(version, described: list) -> Work:
    """v5 and later: every step reads its input and its weights, and writes its output."""
    number = 1 if version.name == VERSIONS[7] else FLOAT32  # what a weight_size counts
    moved = sum(number * step.weight_size + size(step.x) + 2 * size(step.out) for step in described)
    return Work(sum(step_flops(version, step) for step in described), moved)


def size(buffer) -> int:
    """Bytes of an activation, without its border."""
    return prod(buffer.shape) * np.dtype(getattr(buffer, "dtype", np.float32)).itemsize


def step_flops(version, step) -> float:
    """Of a convolution: its multiply-adds, the residual's addition, ReLU. Of a step without weights: one a number."""
    operator, out = step.operator.__name__, prod(step.out.shape)
    if operator.startswith("winograd"):
        return winograd_flops(version, step)
    if operator.startswith("ozaki"):
        return ozaki_flops(version, step)
    if operator == "max_pool":
        return POOLED * out
    if not step.has_weights:
        return prod(step.x.shape)
    products = step.x.channels * step.kernel**2
    if version.name == VERSIONS[7]:  # those with the zeros that fill a picture's row count, too
        products = step.x.groups * prod(version.ops.window(step.x, step.kernel))
    return out * (2.0 * products + bool(step.arguments.get("add")) + 1)


def winograd_flops(version, step) -> float:
    """Transforms: of each tile and channel. Products: one multiply-add for each position and pair of channels."""
    size, stride = step.arguments["size"], step.arguments["stride"]
    at, _, bt = zip(*(version.winograd.matrices(extent, stride) for extent in size))
    positions = prod(version.winograd.sides(size, stride))
    if step.operator.__name__ == "winograd_input":
        return prod(step.out.shape) / positions * both_sides(*bt)
    tiles = prod(step.x.shape) / step.x.channels / positions
    return tiles * step.out.channels * (2.0 * positions * step.x.channels + both_sides(*at))


def ozaki_flops(version, step) -> float:
    """Digits: of each number, a multiplication and the addition that rounds it. Products: of bytes, not of numbers.

    Six digits' products for each product; then of each output the sums are put together, scaled, and the bias added.
    """
    if step.operator.__name__ == "ozaki_input":
        return 2 * prod(step.x.shape)
    digits = version.ozaki.DIGITS
    numbers = 4 * step.x.channels // digits * step.kernel**2  # of a window; a place in x holds four digits
    together = 2 * digits + step.arguments["add"] + step.arguments["relu"]
    return prod(step.out.shape) * (2.0 * numbers * (digits * (digits + 1) // 2) + together)


def both_sides(down: list, right: list) -> int:
    """Operations of down tile right^T, columns first: additions, and multiplications by all but 1 and -1."""
    column, row = (
        sum(sum(f != 0 for f in line) - 1 + sum(abs(f) not in (0, 1) for f in line) for line in matrix)
        for matrix in (down, right)
    )
    return column * len(right[0]) + row * len(down)


def tensors(described: list[Layer]) -> int:
    return sum(len(layer.tensors) for layer in described)


def numbers(described: list[Layer]) -> int:
    return sum(prod(shape) for layer in described for shape in layer.tensors.values())
