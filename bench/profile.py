"""Where a version's time goes, layer by layer. This runs in the version's own process.

v1 to v4 are timed from outside: the operators that their network calls are replaced, before it is built, by ones
that note their time. From v5 on the network offers its compiled steps one by one.
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
OWN_LAYER = {"max_pool": "maxpool", "average_pool": "avgpool", "fully_connected": "fc"}
PRODUCTS = ("conv2d", "fully_connected", "layer")  # a layer's own sum of products; "layer" holds all that v5 fused


class Trace:
    """Times the operators that a `resnet50` module imported. `calls`: (operator, seconds) in order."""

    def __init__(self, module: ModuleType, clock: Callable[[], float] = time.perf_counter):
        self.calls, self.clock = [], clock
        for name in OPERATORS:
            if callable(operator := getattr(module, name, None)):
                setattr(module, name, self.timed(name, operator))

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
        convolutions = iter(layers(image_size))
        found, layer = defaultdict(float), None
        for operator, seconds in self.calls:
            if operator == "conv2d":
                layer = next(convolutions).name
            found[OWN_LAYER.get(operator, layer), operator] += seconds
        self.calls.clear()
        return found


def layer_times(model, trace: Trace | None, image: NDArray[np.float32], rounds: int) -> tuple[list[float], dict]:
    """Run `rounds` pictures. Return the seconds of each picture, and {layer: {operator: median seconds}}.

    A picture takes longer than its parts together: the rest passes between the operators.
    """
    totals, found = [], defaultdict(list)
    for _ in range(rounds + 1):
        if trace:
            trace.calls.clear()
        start = time.perf_counter()
        model.forward(image)
        totals.append(time.perf_counter() - start)
        for part, seconds in (trace.take_parts(image.shape[0]) if trace else step_times(model)).items():
            found[part].append(seconds)
    parts = defaultdict(dict)
    for (layer, operator), seconds in found.items():
        parts[layer][operator] = median(seconds[1:])  # the first picture warms up
    return totals[1:], dict(parts)


def step_times(model) -> dict[tuple[str, str], float]:
    """One picture step by step."""
    parts = {}
    for number, step in enumerate(model.steps):
        start = time.perf_counter()
        model.run(number, number + 1)
        seconds = time.perf_counter() - start
        layer, _, part = step.name.rpartition(".")
        # Gathering every other pixel is part of the convolution with a stride that it saves from doing so; Winograd's
        # transform of the input is a part of the convolution after it.
        owner = {"subsample": f"{layer}.downsample.0", "transform": layer}.get(part)
        parts[(owner, part) if owner else (step.name, "layer")] = seconds
    return parts
