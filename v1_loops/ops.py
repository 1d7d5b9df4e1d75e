"""The operators of ResNet-50 as their definitions: loops over Python numbers.

An activation of shape (height, width, channels) is a nested list, x[row][column][channel]; a vector is a list.
"""

import math

Array = list  # nested lists of float


def conv2d(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    """Convolve x (in_h, in_w, in_channels) with weight (out_channels, kernel_h, kernel_w, in_channels).

    Returns (out_h, out_w, out_channels): every output is the sum, over the window of the kernel's size,
    of input times weight (a cross-correlation: the kernel is not flipped). Outside the picture x is zero.
    """
    in_h, in_w = len(x), len(x[0])
    kernel_h, kernel_w = len(weight[0]), len(weight[0][0])
    out_h = (in_h + 2 * padding - kernel_h) // stride + 1
    out_w = (in_w + 2 * padding - kernel_w) // stride + 1
    out = [[[] for _ in range(out_w)] for _ in range(out_h)]
    for row in range(out_h):
        for column in range(out_w):
            # The window's part inside the picture is the same for all output channels: found once, not 2048 times.
            window = []
            for i in range(kernel_h):
                for j in range(kernel_w):
                    in_row, in_column = row * stride + i - padding, column * stride + j - padding
                    if 0 <= in_row < in_h and 0 <= in_column < in_w:
                        window.append((i, j, x[in_row][in_column]))
            for kernel in weight:
                total = 0.0
                for i, j, pixel in window:
                    for value, factor in zip(pixel, kernel[i][j]):
                        total += value * factor
                out[row][column].append(total)
    return out


def batch_norm(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float = 1e-5) -> Array:
    """Normalise each channel with the statistics of training, then scale and shift it (Ioffe and Szegedy 2015).

    x (h, w, channels); gamma, beta, mean and variance (channels,).
    """
    parameters = [(g / math.sqrt(v + epsilon), b, m) for g, b, m, v in zip(gamma, beta, mean, variance)]
    return [
        [[(value - m) * scale + b for value, (scale, b, m) in zip(pixel, parameters)] for pixel in row] for row in x
    ]


def relu(x: Array) -> Array:
    """Replace what is negative with zero. x (h, w, channels)."""
    return [[[value if value > 0 else 0.0 for value in pixel] for pixel in row] for row in x]


def add(x: Array, y: Array) -> Array:
    """Add two activations (h, w, channels): the residual connection (He et al. 2016, equation 1)."""
    return [[[a + b for a, b in zip(p, q)] for p, q in zip(row_x, row_y)] for row_x, row_y in zip(x, y)]


def max_pool(x: Array, kernel: int, stride: int, padding: int) -> Array:
    """Take each channel's largest value in every kernel x kernel window. x (h, w, channels).

    What lies outside the picture does not take part.
    """
    in_h, in_w = len(x), len(x[0])
    out_h = (in_h + 2 * padding - kernel) // stride + 1
    out_w = (in_w + 2 * padding - kernel) // stride + 1
    out = [[[] for _ in range(out_w)] for _ in range(out_h)]
    for row in range(out_h):
        for column in range(out_w):
            largest = [-math.inf] * len(x[0][0])
            for in_row in range(row * stride - padding, row * stride - padding + kernel):
                for in_column in range(column * stride - padding, column * stride - padding + kernel):
                    if 0 <= in_row < in_h and 0 <= in_column < in_w:
                        largest = [max(a, b) for a, b in zip(largest, x[in_row][in_column])]
            out[row][column] = largest
    return out


def average_pool(x: Array) -> Array:
    """Average each channel over the whole picture: (h, w, channels) -> (channels,)."""
    totals = [0.0] * len(x[0][0])
    for row in x:
        for pixel in row:
            totals = [total + value for total, value in zip(totals, pixel)]
    return [total / (len(x) * len(x[0])) for total in totals]


def fully_connected(x: Array, weight: Array, bias: Array) -> Array:
    """Return weight x + bias: x (in_features,), weight (out_features, in_features), bias (out_features,)."""
    out = []
    for row, b in zip(weight, bias):
        total = b
        for value, factor in zip(x, row):
            total += value * factor
        out.append(total)
    return out


def softmax(x: Array) -> Array:
    """Turn logits (classes,) into probabilities that sum to one; the largest is subtracted so that exp stays finite."""
    largest = max(x)
    exponentials = [math.exp(value - largest) for value in x]
    total = sum(exponentials)
    return [value / total for value in exponentials]
