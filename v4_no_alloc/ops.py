"""The operators of ResNet-50 as whole-array NumPy expressions that write into the arrays they are given.

An activation is a float32 array (height, width, channels); a vector is an array (channels,). `out` may be
`x` itself where an operator works element by element.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float32]

# One zero for each channel, of which ResNet-50 has at most 2048. NumPy compares an array with an array twice as
# fast as with the number 0: only the former loop uses SIMD.
ZEROS = np.zeros(2048, dtype=np.float32)


def conv2d(
    x: Array, weight: Array, stride: int, padding: int, padded: Array | None, columns: Array | None, out: Array
) -> None:
    """Convolve x (in_h, in_w, in_channels) with weight (out_channels, kernel_h, kernel_w, in_channels).

    Writes out (out_h, out_w, out_channels). im2col (Chellapilla et al. 2006): every window becomes one row of
    a matrix, so that all sums are one matrix product. Scratch space: padded (in_h + 2 padding, in_w + 2 padding,
    in_channels), None without padding; columns (out_h * out_w, kernel_h * kernel_w * in_channels), None where x is
    that matrix already (a 1x1 kernel, stride 1).
    """
    out_channels, kernel_h, kernel_w, _ = weight.shape
    if padding:
        padded.fill(0)
        padded[padding:-padding, padding:-padding] = x
        x = padded
    windows = sliding_window_view(x, (kernel_h, kernel_w), axis=(0, 1))[::stride, ::stride]
    windows = windows.transpose(0, 1, 3, 4, 2)  # (out_h, out_w, kernel_h, kernel_w, in_channels)
    out_h, out_w = windows.shape[:2]
    if columns is None:
        columns = windows.reshape(out_h * out_w, -1)
    else:
        columns.reshape(windows.shape)[...] = windows
    np.matmul(columns, weight.reshape(out_channels, -1).T, out=out.reshape(out_h * out_w, out_channels))


def batch_norm(x: Array, shift: Array, out: Array) -> None:
    """Add what a batch norm (Ioffe and Szegedy 2015) adds; what it multiplies by is in the weights before it.

    x, out (h, w, channels). shift = beta - mean * gamma / sqrt(variance + epsilon), (channels,).
    """
    np.add(x, shift, out=out)


def relu(x: Array, out: Array) -> None:
    """Replace what is negative with zero. x, out (h, w, channels)."""
    np.maximum(x, ZEROS[: x.shape[2]], out=out)


def add(x: Array, y: Array, out: Array) -> None:
    """Add two activations (h, w, channels): the residual connection (He et al. 2016, equation 1)."""
    np.add(x, y, out=out)


def max_pool(x: Array, kernel: int, stride: int, padding: int, padded: Array, out: Array) -> None:
    """Take each channel's largest value in every kernel x kernel window. x (h, w, channels).

    Writes out (out_h, out_w, channels); padded (h + 2 padding, w + 2 padding, channels) is scratch space.
    What lies outside the picture does not take part.
    """
    padded.fill(-np.inf)
    padded[padding:-padding, padding:-padding] = x
    windows = sliding_window_view(padded, (kernel, kernel), axis=(0, 1))[::stride, ::stride]
    np.copyto(out, windows[..., 0, 0])
    for i in range(kernel):
        for j in range(kernel):
            np.maximum(out, windows[..., i, j], out=out)


def average_pool(x: Array, out: Array) -> None:
    """Average each channel over the whole picture: (h, w, channels) -> out (channels,)."""
    np.mean(x, axis=(0, 1), out=out)


def fully_connected(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """Write weight x + bias to out: x (in_features,), weight (out_features, in_features), bias, out (out_features,)."""
    np.matmul(weight, x, out=out)
    np.add(out, bias, out=out)


def softmax(x: Array) -> Array:
    """Turn logits (classes,) into probabilities that sum to one; the largest is subtracted so that exp stays finite."""
    exponentials = np.exp(x - x.max())
    return exponentials / exponentials.sum()
