"""Where a version's time goes, layer by layer.

v1 to v4 are timed from outside: the operators that their network calls are replaced, before it is built, by ones
that note their time. v5 and v6 offer their compiled steps one by one.
"""

import time
from collections import defaultdict
from statistics import median

from bench import network

OPERATORS = ("conv2d", "batch_norm", "relu", "add", "max_pool", "average_pool", "fully_connected")
OWN_LAYER = {"max_pool": "maxpool", "average_pool": "avgpool", "fully_connected": "fc"}


class Trace:
    """Times the operators that a `resnet50` module imported. `calls`: (operator, seconds) in order."""

    def __init__(self, module, clock=time.perf_counter):
        self.calls, self.clock = [], clock
        for name in OPERATORS:
            if callable(operator := getattr(module, name, None)):
                setattr(module, name, self.timed(name, operator))

    def timed(self, name, operator):
        def wrapper(*args, **kwargs):
            start = self.clock()
            try:
                return operator(*args, **kwargs)
            finally:
                self.calls.append((name, self.clock() - start))

        return wrapper

    def take_layers(self, image_size):
        """Return {(layer, operator): seconds} of the calls since the last time.

        The n-th convolution is the network's n-th; what follows it, up to the next, belongs to its layer.
        """
        convolutions = iter(layer.name for layer in network.layers(image_size))
        found, layer = defaultdict(float), None
        for operator, seconds in self.calls:
            if operator == "conv2d":
                layer = next(convolutions)
            found[OWN_LAYER.get(operator, layer), operator] += seconds
        self.calls.clear()
        return dict(found)


def traced(version):
    """Return the Trace of a version that calls its operators, None for one that offers compiled steps."""
    return None if hasattr(version, "codegen") else Trace(version.resnet50)


def layer_times(model, trace, image, rounds, clock=time.perf_counter):
    """Run `rounds` pictures. Return (seconds of each picture, [{"layer", "operator", "seconds"}, ...]).

    The parts' seconds are medians. A picture's time is more than their sum: the rest passes between the operators.
    """
    totals, found = [], defaultdict(list)
    if trace:
        trace.calls.clear()
    for _ in range(rounds + 1):
        total, parts = traced_round(model, trace, image, clock) if trace else step_round(model, image, clock)
        totals.append(total)
        for key, seconds in parts.items():
            found[key].append(seconds)
    parts = [{"layer": layer, "operator": operator, "seconds": median(seconds[1:])}  # the first picture warms up
             for (layer, operator), seconds in found.items()]
    return totals[1:], parts


def traced_round(model, trace, image, clock):
    start = clock()
    model.forward(image)
    return clock() - start, trace.take_layers(image.shape[0])


def step_round(model, image, clock):
    """One picture in one call, and once more step by step: (name, function without arguments, ...)."""
    start = clock()
    model.forward(image)
    total, parts = clock() - start, {}
    for name, run, *_ in model.steps:
        start = clock()
        run()
        block, _, part = name.rpartition(".")
        # Gathering every other pixel is part of the convolution with a stride that it saves from doing so; Winograd's
        # transform of the input is a part of the convolution after it.
        owner = {"subsample": f"{block}.downsample.0", "transform": block}.get(part)
        key = (owner, part) if owner else (name, "layer")
        parts[key] = clock() - start
    return total, parts
