"""ResNet-50 in float64, as short and plain as NumPy allows: the answer every version is held to.

It shares no code with the six versions and is not meant to be fast. The tests hold it to PyTorch, so that the
benchmark can check outputs without having PyTorch installed.

Network: He et al., "Deep Residual Learning for Image Recognition", 2015, in torchvision's variant, where the
stride of a down-sampling bottleneck sits on its 3x3 convolution.
"""

from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

BLOCKS = (3, 4, 6, 3)  # bottlenecks in layer1 ... layer4
EPSILON = 1e-5  # torchvision's batch norm


def reference_activations(weights_dir, image):
    """Every stage's output for one picture.

    weights_dir: an exported weights directory, one `.npy` per tensor, convolutions as (out, kh, kw, in).
    image: (height, width, 3), normalised. Computed in float64 whatever its dtype.
    Returns a dict of float64 arrays: stem (after the max pool), layer1 ... layer4, all (height, width, channels),
    avgpool (2048,) and logits (num_classes,).
    """
    tensors = _Tensors(weights_dir)
    x = np.asarray(image, dtype=np.float64)
    if x.ndim != 3 or x.shape[2] != 3:
        raise ValueError(f"expected an image of shape (height, width, 3), got {x.shape}")
    activations = {}
    x = np.maximum(_conv_bn(x, tensors, "conv1", "bn1", stride=2), 0)
    x = activations["stem"] = _max_pool(x)
    for stage, blocks in enumerate(BLOCKS, start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _bottleneck(x, tensors, f"layer{stage}.{block}", stride, downsample=block == 0)
        activations[f"layer{stage}"] = x
    x = activations["avgpool"] = x.mean(axis=(0, 1))
    activations["logits"] = tensors["fc.weight"] @ x + tensors["fc.bias"]
    return activations


def reference_logits(weights_dir, image):
    """The logits alone, (num_classes,) float64; see `reference_activations`."""
    return reference_activations(weights_dir, image)["logits"]


class _Tensors:
    """tensors["conv1.weight"] reads that file as float64."""

    def __init__(self, weights_dir):
        self.directory = Path(weights_dir)

    def __getitem__(self, name):
        return np.load(self.directory / f"{name}.npy", allow_pickle=False).astype(np.float64)


def _bottleneck(x, tensors, name, stride, downsample):
    shortcut = x
    if downsample:
        shortcut = _conv_bn(x, tensors, f"{name}.downsample.0", f"{name}.downsample.1", stride)
    y = np.maximum(_conv_bn(x, tensors, f"{name}.conv1", f"{name}.bn1"), 0)
    y = np.maximum(_conv_bn(y, tensors, f"{name}.conv2", f"{name}.bn2", stride), 0)
    y = _conv_bn(y, tensors, f"{name}.conv3", f"{name}.bn3")
    return np.maximum(y + shortcut, 0)


def _conv_bn(x, tensors, conv, bn, stride=1):
    weight = tensors[f"{conv}.weight"]  # (out, kh, kw, in)
    kernel = weight.shape[1]
    windows = _windows(x, kernel, stride, padding=kernel // 2, value=0.0)  # (h, w, in, kh, kw)
    y = np.tensordot(windows, weight, axes=([3, 4, 2], [1, 2, 3]))
    deviation = np.sqrt(tensors[f"{bn}.running_var"] + EPSILON)
    return (y - tensors[f"{bn}.running_mean"]) / deviation * tensors[f"{bn}.weight"] + tensors[f"{bn}.bias"]


def _max_pool(x):
    return _windows(x, kernel=3, stride=2, padding=1, value=-np.inf).max(axis=(3, 4))


def _windows(x, kernel, stride, padding, value):
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)), constant_values=value)
    return sliding_window_view(x, (kernel, kernel), axis=(0, 1))[::stride, ::stride]
