"""ResNet-50 in float64, as short and plain as NumPy allows: the answer every version is held to.

It shares no code with the versions. The tests hold it to PyTorch, which the benchmark then need not have installed.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray
from safetensors import safe_open

from common.architecture import STAGES

EPSILON = 1e-5  # torchvision's batch norm
Array = NDArray[np.float64]
Read = Callable[[str], Array]  # the tensor of that name


def reference_activations(weights_file: Path, image: ArrayLike) -> dict[str, Array]:
    """Return every stage's output for one picture, computed in float64.

    image: (height, width, 3), normalised. Returns stem (after the max pool), layer1 ... layer4, all (height, width,
    channels), avgpool (2048,) and logits (num_classes,). Raises ValueError for an image of another shape.
    """
    x = np.asarray(image, dtype=np.float64)
    if x.ndim != 3 or x.shape[2] != 3:
        raise ValueError(f"expected an image of shape (height, width, 3), got {x.shape}")
    activations = {}
    with safe_open(weights_file, framework="numpy") as file:

        def read(name: str) -> Array:
            return file.get_tensor(name).astype(np.float64)

        x = np.maximum(_conv_bn(x, read, "conv1", "bn1", stride=2), 0)
        x = activations["stem"] = _windows(x, kernel=3, stride=2, value=-np.inf).max(axis=(3, 4))
        for stage, (blocks, _) in enumerate(STAGES, start=1):
            for block in range(blocks):
                x = _bottleneck(x, read, f"layer{stage}.{block}", stage, block)
            activations[f"layer{stage}"] = x
        x = activations["avgpool"] = x.mean(axis=(0, 1))
        activations["logits"] = read("fc.weight") @ x + read("fc.bias")
    return activations


def reference_logits(weights_file: Path, image: ArrayLike) -> Array:
    """The logits alone, (num_classes,); see `reference_activations`."""
    return reference_activations(weights_file, image)["logits"]


def _bottleneck(x: Array, read: Read, name: str, stage: int, block: int) -> Array:
    stride = 2 if stage > 1 and block == 0 else 1
    shortcut = _conv_bn(x, read, f"{name}.downsample.0", f"{name}.downsample.1", stride) if block == 0 else x
    y = np.maximum(_conv_bn(x, read, f"{name}.conv1", f"{name}.bn1"), 0)
    y = np.maximum(_conv_bn(y, read, f"{name}.conv2", f"{name}.bn2", stride), 0)
    return np.maximum(_conv_bn(y, read, f"{name}.conv3", f"{name}.bn3") + shortcut, 0)


def _conv_bn(x: Array, read: Read, conv: str, bn: str, stride: int = 1) -> Array:
    weight = read(f"{conv}.weight")  # (out, kh, kw, in)
    windows = _windows(x, weight.shape[1], stride, value=0.0)  # (h, w, in, kh, kw)
    y = np.tensordot(windows, weight, axes=([3, 4, 2], [1, 2, 3]))
    y = (y - read(f"{bn}.running_mean")) / np.sqrt(read(f"{bn}.running_var") + EPSILON)
    return y * read(f"{bn}.weight") + read(f"{bn}.bias")


def _windows(x: Array, kernel: int, stride: int, value: float) -> Array:
    padding = (kernel // 2, kernel // 2)
    x = np.pad(x, (padding, padding, (0, 0)), constant_values=value)
    return sliding_window_view(x, (kernel, kernel), axis=(0, 1))[::stride, ::stride]
