"""Random weights for a ResNet-50, from NumPy alone and bit-identical for one seed on every machine.

Every tensor has a stream of its own, seeded with (seed, its name), so order plays no part. The streams are read as
raw 64-bit words, whose sequence NumPy keeps stable; its `normal` carries no such promise. What follows is integer
arithmetic and single IEEE operations, each correctly rounded.
"""

import zlib
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from common.architecture import tensor_shapes
from common.weights_file import ExportError

# With these gains the activations' standard deviation stays between 0.5 and 2 from the stem to layer4, for
# photographs and for noise, at 224x224 and at 32x32, and the logits' between 1 and 3.
STEM_GAIN = 1.0  # the picture is normalised: mean near 0, variance near 1
RELU_GAIN = 1.5  # a ReLU leaves a third of its input's variance around the mean; 1.7 would restore all of it
BRANCH_GAMMA = 0.4  # of a block's last batch norm: what a block adds stays smaller than what it passes on
LOGIT_GAIN = 2.5
MOST_CLASSES = 100_000  # the last layer then takes 0.8 GB


def synthetic(seed: int = 0, num_classes: int = 1000) -> dict[str, NDArray[np.float32]]:
    """Return a ResNet-50's state dict, convolutions (out, in, kh, kw). Raises ExportError for impossible numbers."""
    if seed < 0 or not 1 <= num_classes <= MOST_CLASSES:
        limits = f"the seed must be 0 or more, and the classes from 1 to {MOST_CLASSES}"
        raise ExportError(f"seed {seed}, {num_classes} classes: {limits}")
    return {name: _tensor(name, shape, seed) for name, shape in tensor_shapes(num_classes).items()}


def _tensor(name, shape, seed):
    words = np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])).random_raw(prod(shape))
    if name == "conv1.weight":
        return _filters(words, shape, STEM_GAIN, zero_sum=False)
    if len(shape) > 1:
        return _filters(words, shape, LOGIT_GAIN if name == "fc.weight" else RELU_GAIN, zero_sum=True)
    if name.endswith("running_var"):
        return _uniform(words, 0.5, 1.5)
    if name.endswith("weight"):  # gamma
        scale = BRANCH_GAMMA if name.endswith("bn3.weight") else 1.0
        return _uniform(words, 0.75 * scale, 1.25 * scale)
    return _uniform(words, -0.25, 0.25)  # running_mean, beta, fc.bias


def _uniform(words, low, high):
    """float32 values spread evenly from low to high, from the top 53 bits of each word."""
    return (low + (high - low) * ((words >> np.uint64(11)) * 2.0**-53)).astype(np.float32)


def _filters(words, shape, gain, zero_sum):
    """Bell-shaped float32 filters that turn inputs of mean square 1 into outputs of variance gain^2.

    A value is the sum of a word's four 16-bit quarters, less its mean. With zero_sum that is the mean over
    the filter itself, so that an offset common to all inputs vanishes: every ReLU leaves one, and after some
    layers such offsets would drown what differs between two pictures.
    """
    fan_in = prod(shape[1:])
    sums = words.view(np.uint16).reshape(-1, 4).sum(axis=1, dtype=np.int64).reshape(shape[0], fan_in)
    total = sums.sum(axis=1, keepdims=True) if zero_sum else 2 * (2**16 - 1) * fan_in
    deviation = sqrt((2.0**32 - 1) / 3)  # of the sum of four 16-bit integers
    scale = gain / (sqrt(fan_in) * deviation * fan_in)
    return ((sums * fan_in - total) * scale).astype(np.float32).reshape(shape)  # integers below 2^31
