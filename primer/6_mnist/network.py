"""A small convolutional network in NumPy: every layer forward and backward, the loss, and the weights file.

    28x28x1 -> convolution 5x5, 16 -> max pool 2 -> ReLU          14x14x16
            -> convolution 5x5, 32 -> max pool 2 -> ReLU          7x7x32
            -> fully connected 128 -> ReLU -> fully connected 10  logits

Arrays are channels-last, `(batch, height, width, channels)`; weights are `(out, kernel, kernel, in)` and
`(out, in)`, as in the ResNet-50 versions. A layer has up to three methods. `forward(x)` keeps what the other
two need; `parameter_gradients(dy)` and `input_gradient(dy)` take dL/dy and return dL/d(parameter) and dL/dx.

Not here, on purpose: strides and dilation (pooling does the down-sampling), batch norm, automatic
differentiation. The derivations are in README.md.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

IMAGE_SIZE = 28
CLASSES = 10


def im2col(x: NDArray, kernel_size: int, padding: int) -> NDArray:
    """Every `kernel_size` square window of `x` as one row.

    x: (batch, height, width, channels) -> (batch, out_height, out_width, kernel_size * kernel_size * channels),
    with out_height = height + 2 * padding - kernel_size + 1; the border is zeros.
    """
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = sliding_window_view(x, (kernel_size, kernel_size), axis=(1, 2))  # (n, h, w, channels, kh, kw)
    windows = windows.transpose(0, 1, 2, 4, 5, 3)
    return windows.reshape(*windows.shape[:3], -1)


def he_normal(shape: tuple[int, ...], rng: np.random.Generator, dtype: type) -> NDArray:
    """Weights of variance 2 / fan_in, which keep the variance of activations through ReLU (He et al. 2015)."""
    fan_in = np.prod(shape[1:])
    return rng.normal(0.0, np.sqrt(2.0 / fan_in), shape).astype(dtype)


class Convolution:
    """Stride 1: y[n, i, j, o] = bias[o] + sum over k, l, c of weight[o, k, l, c] * x[n, i+k-p, j+l-p, c]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        padding: int,
        rng: np.random.Generator,
        dtype: type = np.float32,
    ):
        self.weight = he_normal((out_channels, kernel_size, kernel_size, in_channels), rng, dtype)
        self.bias = np.zeros(out_channels, dtype)
        self.padding = padding

    def forward(self, x: NDArray) -> NDArray:
        """x: (batch, height, width, in) -> (batch, out_height, out_width, out)."""
        self.columns = im2col(x, self.weight.shape[1], self.padding)
        return self.columns @ self.weight.reshape(len(self.weight), -1).T + self.bias

    def parameter_gradients(self, dy: NDArray) -> dict[str, NDArray]:
        """A fully connected layer's, summed over every position of the window."""
        dy = dy.reshape(-1, dy.shape[-1])
        columns = self.columns.reshape(len(dy), -1)
        return {"weight": (dy.T @ columns).reshape(self.weight.shape), "bias": dy.sum(axis=0)}

    def input_gradient(self, dy: NDArray) -> NDArray:
        """The convolution of `dy` with the kernel turned by 180 degrees, in and out exchanged."""
        _, kernel_size, _, in_channels = self.weight.shape
        turned = self.weight[:, ::-1, ::-1, :].transpose(1, 2, 0, 3).reshape(-1, in_channels)
        return im2col(dy, kernel_size, kernel_size - 1 - self.padding) @ turned


class MaxPool:
    """The largest of every `size` x `size` block; rows and columns left over at the end are dropped."""

    def __init__(self, size: int):
        self.size = size

    def _taps(self, x):
        """`size * size` strided views of `x`: position (k, l) of every block, in reading order."""
        size = self.size
        height, width = x.shape[1] // size * size, x.shape[2] // size * size
        return [x[:, k:height:size, l:width:size] for k in range(size) for l in range(size)]

    def forward(self, x: NDArray) -> NDArray:
        """x: (batch, height, width, channels) -> (batch, height // size, width // size, channels)."""
        self.x = x
        first, *others = self._taps(x)
        y = first.copy()
        for tap in others:
            np.maximum(y, tap, out=y)
        self.y = y
        return y

    def input_gradient(self, dy: NDArray) -> NDArray:
        """Each dy goes to the pixel that won its block, the first in reading order among equals; others get 0."""
        dx = np.zeros_like(self.x)
        unclaimed = np.ones(self.y.shape, bool)
        for source, target in zip(self._taps(self.x), self._taps(dx), strict=True):
            won = unclaimed & (source == self.y)
            np.multiply(dy, won, out=target)
            unclaimed &= ~won
        return dx


class ReLU:
    """max(x, 0); its derivative at 0 is taken as 0."""

    def forward(self, x: NDArray) -> NDArray:
        self.positive = x > 0
        return x * self.positive

    def input_gradient(self, dy: NDArray) -> NDArray:
        return dy * self.positive


class FullyConnected:
    """y = x W^T + b. Pictures of any shape are flattened to one row each."""

    def __init__(self, in_features: int, out_features: int, rng: np.random.Generator, dtype: type = np.float32):
        self.weight = he_normal((out_features, in_features), rng, dtype)
        self.bias = np.zeros(out_features, dtype)

    def forward(self, x: NDArray) -> NDArray:
        """x: (batch, ...) with `in_features` numbers a picture -> (batch, out_features)."""
        self.input_shape = x.shape
        self.x = x.reshape(len(x), -1)
        return self.x @ self.weight.T + self.bias

    def parameter_gradients(self, dy: NDArray) -> dict[str, NDArray]:
        return {"weight": dy.T @ self.x, "bias": dy.sum(axis=0)}

    def input_gradient(self, dy: NDArray) -> NDArray:
        return (dy @ self.weight).reshape(self.input_shape)


Layer = Convolution | MaxPool | ReLU | FullyConnected


def softmax(logits: NDArray) -> NDArray:
    """Probabilities along the last axis. The largest logit is subtracted first, so that exp cannot overflow."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def softmax_cross_entropy(logits: NDArray, labels: NDArray) -> tuple[float, NDArray]:
    """Mean of -log softmax(logits)[label], and its gradient (softmax - one_hot) / batch.

    logits: (batch, classes) float; labels: (batch,) integers -> (float, (batch, classes)).
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    gradient = np.exp(log_probabilities)
    gradient[rows, labels] -= 1
    return -log_probabilities[rows, labels].mean(), gradient / len(labels)


class Network:
    """The layers in order. `parameters` maps names such as `conv1.weight` to the arrays that the layers use."""

    def __init__(
        self,
        seed: int = 0,
        dtype: type = np.float32,
        image_size: int = IMAGE_SIZE,
        channels: tuple[int, int] = (16, 32),
        hidden: int = 128,
    ):
        rng = np.random.default_rng(seed)
        features = (image_size // 4) ** 2 * channels[1]
        self.layers = {
            "conv1": Convolution(1, channels[0], 5, 2, rng, dtype),
            "pool1": MaxPool(2),
            "relu1": ReLU(),
            "conv2": Convolution(channels[0], channels[1], 5, 2, rng, dtype),
            "pool2": MaxPool(2),
            "relu2": ReLU(),
            "fc1": FullyConnected(features, hidden, rng, dtype),
            "relu3": ReLU(),
            "fc2": FullyConnected(hidden, CLASSES, rng, dtype),
        }
        self.parameters = {
            f"{name}.{kind}": getattr(layer, kind)
            for name, layer in self.layers.items()
            if hasattr(layer, "weight")
            for kind in ("weight", "bias")
        }

    def forward(self, x: NDArray, probe: Callable | None = None) -> NDArray:
        """x: (batch, height, width, 1) in 0..1 -> logits (batch, 10). `probe(name, activation)` sees each layer."""
        for name, layer in self.layers.items():
            x = layer.forward(x)
            if probe:
                probe(name, x)
        return x

    def backward(self, dy: NDArray) -> dict[str, NDArray]:
        """dL/dlogits of the last forward -> {parameter name: gradient}. The picture's own gradient is not needed."""
        gradients = {}
        first = next(iter(self.layers))
        for name, layer in reversed(self.layers.items()):
            if hasattr(layer, "weight"):
                for kind, gradient in layer.parameter_gradients(dy).items():
                    gradients[f"{name}.{kind}"] = gradient
            if name != first:
                dy = layer.input_gradient(dy)
        return gradients

    def save(self, path: str | Path, description: str = "") -> None:
        """Write every parameter, and one line about its training, to a .safetensors file. Raises OSError."""
        try:
            save_file(self.parameters, path, {"description": description})
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error

    def load(self, path: str | Path) -> str:
        """Fill the parameters from a file that `save` wrote, and return its description. Raises ValueError."""
        try:
            with safe_open(path, framework="numpy") as file:
                for name, parameter in self.parameters.items():
                    value = file.get_tensor(name)
                    if value.shape != parameter.shape:
                        raise ValueError(f"{name} has the shape {value.shape}, not {parameter.shape}")
                    parameter[...] = value
                return (file.metadata() or {}).get("description", "no description")
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(f"{path}: not a network of this lesson ({error}); `mnist.py train` makes one") from error
