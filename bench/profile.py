"""Where a version's time goes, layer by layer. This runs in the version's own process.

v1 to v4 are timed from outside: the operators that their network calls, and reading a tensor from the file, are
replaced, before it is built, by ones that note their time. From v5 on the network offers its compiled steps one by one.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from common.architecture import layers

OPERATORS = ("conv2d", "batch_norm", "relu", "add", "max_pool", "average_pool", "fully_connected")
LINE = 64  # bytes of a cache line
FILLER = 1 << 22  # numbers, 128 MiB: more than version 1 leaves free between two layers
OWN_LAYER = {"max_pool": "maxpool", "average_pool": "avgpool", "fully_connected": "fc"}
READ = "read"  # a tensor, from the file
PRODUCTS = ("conv2d", "fully_connected", "layer")  # a layer's own sum of products; "layer" holds all that v5 fused


class Trace:
    """Times the operators that a `resnet50` module imported. `calls`: (operator, seconds) in order.

    `reads`: (tensor, seconds), of the versions that read weights during inference.
    """

    def __init__(self, module: ModuleType, clock: Callable[[], float] = time.perf_counter):
        self.calls, self.reads, self.clock = [], [], clock
        for name in OPERATORS:
            if callable(operator := getattr(module, name, None)):
                setattr(module, name, self.timed(name, operator))
        if weights := getattr(module, "WeightFile", None):
            weights.__getitem__ = self.timed_read(weights.__getitem__)

    def timed_read(self, read: Callable) -> Callable:
        def wrapper(weights, name):
            start = self.clock()
            tensor = read(weights, name)
            self.reads.append((name, self.clock() - start))
            return tensor

        return wrapper

    def timed(self, name: str, operator: Callable) -> Callable:
        def wrapper(*args, **kwargs):
            start = self.clock()
            result = operator(*args, **kwargs)
            self.calls.append((name, self.clock() - start))
            return result

        return wrapper

    def take_parts(self, image_size: int) -> dict[tuple[str, str], float]:
        """Return {(layer, operator): seconds} of the calls since the last time.

        The n-th convolution is the network's n-th; what follows it, up to the next, belongs to its layer.
        """
        described = layers(image_size)
        convolutions, found, layer = iter(described), defaultdict(float), None
        for operator, seconds in self.calls:
            if operator == "conv2d":
                layer = next(convolutions).name
            found[OWN_LAYER.get(operator, layer), operator] += seconds
        owners = {tensor: layer.name for layer in described for tensor in layer.tensors}
        for tensor, seconds in self.reads:
            found[owners[tensor], READ] += seconds
        self.calls.clear()
        self.reads.clear()
        return found


class Objects:
    """Version 1's convolution, which notes how the weights lie in memory.

    `adjacent`, of each convolution: the share of its weights that lie at most a cache line away from the one used just
    before. in_order: lay all numbers down in the order in which they are used. Copies alone would not do: Python puts
    new objects where old ones were freed, here and there. So that memory is filled first.
    """

    def __init__(self, conv2d: Callable, in_order: bool):
        self.conv2d, self.in_order, self.adjacent = conv2d, in_order, []

    def __call__(self, x, weight, *args, **kwargs):
        if self.in_order:
            filler = [float(number) for number in range(FILLER)]
            x, weight = (np.array(lists).tolist() for lists in (x, weight))
            del filler
        places = [id(number) for kernel in weight for row in kernel for channels in row for number in channels]
        self.adjacent.append(float(np.mean(np.abs(np.diff(places)) <= LINE)))
        return self.conv2d(x, weight, *args, **kwargs)


def one_picture(model, trace: Trace | None, image: NDArray[np.float32]) -> tuple[float, dict[tuple[str, str], float]]:
    """Run a picture. Return its seconds, and those of its parts, {(layer, operator): seconds}.

    A picture takes longer than its parts together: the rest passes between the operators.
    """
    if trace:
        trace.calls.clear()
        trace.reads.clear()
    start = time.perf_counter()
    model.forward(image)
    total = time.perf_counter() - start
    return total, trace.take_parts(image.shape[0]) if trace else step_times(model)


def medians(rounds: list[dict[tuple[str, str], float]]) -> dict[str, dict[str, float]]:
    """Turn the parts of many pictures into {layer: {operator: median seconds}}."""
    parts = defaultdict(dict)
    for layer, operator in rounds[0]:
        parts[layer][operator] = median(found[layer, operator] for found in rounds)
    return dict(parts)


class Products:
    """The matrix products of a picture, and nothing else: what version 2's way to convolve leaves to BLAS."""

    def __init__(self, image_size: int):
        self.matrices = []
        for layer in layers(image_size):
            height, width, out_channels = layer.out_shape
            window = layer.weights // out_channels
            shapes = (height * width, window), (out_channels, window), (height * width, out_channels)
            self.matrices.append([np.ones(shape, np.float32) for shape in shapes])

    def seconds(self) -> float:
        """Compute all in the network's order: as there, weights come from memory and windows have just been written."""
        total = 0.0
        for columns, weight, out in self.matrices:
            columns.fill(1)
            start = time.perf_counter()
            np.matmul(columns, weight.T, out=out)
            total += time.perf_counter() - start
        return total


def step_times(model) -> dict[tuple[str, str], float]:
    """One picture step by step."""
    parts = {}
    for number, step in enumerate(model.steps):
        start = time.perf_counter()
        model.run(number, number + 1)
        seconds = time.perf_counter() - start
        layer, _, part = step.name.rpartition(".")
        # Gathering every other pixel is part of the convolution with a stride that it saves from doing so; Winograd's
        # transform of the input, and version 9's digits of it, are a part of the convolution after them.
        owner = {"subsample": f"{layer}.downsample.0", "transform": layer, "digits": layer}.get(part)
        parts[(owner, part) if owner else (step.name, "layer")] = seconds
    return parts
