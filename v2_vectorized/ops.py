"""The operators of ResNet-50 as whole-array NumPy expressions.

An activation is a float32 array (height, width, channels); a vector is an array (channels,).
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float32]

# One zero for each channel, of which ResNet-50 has at most 2048. NumPy compares an array with an array twice as
# fast as with the number 0: only the former loop uses SIMD.
ZEROS = np.zeros(2048, dtype=np.float32)


def conv2d(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    """Convolve x (in_h, in_w, in_channels) with weight (out_channels, kernel_h, kernel_w, in_channels).

    Returns (out_h, out_w, out_channels). im2col (Chellapilla et al. 2006): every window becomes one row of
    a matrix, so that all sums are one matrix product.
    """
    out_channels, kernel_h, kernel_w, _ = weight.shape
    if padding:
        x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    windows = sliding_window_view(x, (kernel_h, kernel_w), axis=(0, 1))[::stride, ::stride]
    windows = windows.transpose(0, 1, 3, 4, 2)  # (out_h, out_w, kernel_h, kernel_w, in_channels)
    out_h, out_w = windows.shape[:2]
    columns = windows.reshape(out_h * out_w, -1)
    return (columns @ weight.reshape(out_channels, -1).T).reshape(out_h, out_w, out_channels)


def batch_norm(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float = 1e-5) -> Array:
    """Normalise each channel with the statistics of training, then scale and shift it (Ioffe and Szegedy 2015).

    x (h, w, channels); gamma, beta, mean and variance (channels,).
    """
    return (x - mean) * (gamma / np.sqrt(variance + np.float32(epsilon))) + beta


def relu(x: Array) -> Array:
    """Replace what is negative with zero. x (h, w, channels)."""
    return np.maximum(x, ZEROS[: x.shape[2]])


def add(x: Array, y: Array) -> Array:
    """Add two activations (h, w, channels): the residual connection (He et al. 2016, equation 1)."""
    return x + y


def max_pool(x: Array, kernel: int, stride: int, padding: int) -> Array:
    """Take each channel's largest value in every kernel x kernel window. x (h, w, channels).

    What lies outside the picture does not take part.
    """
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)), constant_values=-np.inf)
    windows = sliding_window_view(x, (kernel, kernel), axis=(0, 1))[::stride, ::stride]
    out = windows[..., 0, 0]
    for i in range(kernel):
        for j in range(kernel):
            out = np.maximum(out, windows[..., i, j])
    return out


def average_pool(x: Array) -> Array:
    """Average each channel over the whole picture: (h, w, channels) -> (channels,)."""
    return x.mean(axis=(0, 1))


def fully_connected(x: Array, weight: Array, bias: Array) -> Array:
    """Return weight x + bias: x (in_features,), weight (out_features, in_features), bias (out_features,)."""
    return weight @ x + bias


def softmax(x: Array) -> Array:
    """Turn logits (classes,) into probabilities that sum to one; the largest is subtracted so that exp stays finite."""
    exponentials = np.exp(x - x.max())
    return exponentials / exponentials.sum()
