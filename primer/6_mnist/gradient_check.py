"""Is a gradient right? Nudge one number at a time and watch the loss."""

from collections.abc import Callable

import numpy as np
from network import Convolution, FullyConnected, Layer, MaxPool, Network, ReLU, softmax_cross_entropy
from numpy.typing import NDArray


def numerical_gradient(function: Callable, x: NDArray, step: float = 1e-5) -> NDArray:
    """Central differences (f(x + h) - f(x - h)) / 2h of a scalar function, for every number of `x` (float64).

    `x` is changed in place and put back. The method's own error is of the order of step**2.
    """
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        original = x[index]
        x[index] = original + step
        above = function()
        x[index] = original - step
        below = function()
        x[index] = original
        gradient[index] = (above - below) / (2 * step)
    return gradient


def relative_error(actual: NDArray, expected: NDArray) -> float:
    """Largest difference over the largest magnitude of either: 0 is equal, 1 is unrelated."""
    scale = max(np.abs(actual).max(), np.abs(expected).max(), 1e-12)
    return (np.abs(actual - expected).max() / scale).item()


def check_layer(layer: Layer, x: NDArray, rng: np.random.Generator) -> dict[str, float]:
    """{"input": error, "weight": error, "bias": error} of a layer's gradients at `x`, in float64.

    The loss is sum(r * y) with a random r, so that dL/dy = r and every output has a say.
    """
    r = rng.standard_normal(layer.forward(x).shape)

    def loss():
        return (r * layer.forward(x)).sum()

    layer.forward(x)
    analytic = {"input": layer.input_gradient(r)}
    if hasattr(layer, "weight"):
        analytic |= layer.parameter_gradients(r)
    return {
        name: relative_error(gradient, numerical_gradient(loss, x if name == "input" else getattr(layer, name)))
        for name, gradient in analytic.items()
    }


def check_loss(logits: NDArray, labels: NDArray) -> float:
    """Error of the gradient of softmax cross-entropy."""
    _, gradient = softmax_cross_entropy(logits, labels)
    expected = numerical_gradient(lambda: softmax_cross_entropy(logits, labels)[0], logits)
    return relative_error(gradient, expected)


def check_network(network: Network, x: NDArray, labels: NDArray) -> dict[str, float]:
    """{parameter name: error} of the whole network's gradients."""

    def loss():
        return softmax_cross_entropy(network.forward(x), labels)[0]

    _, dy = softmax_cross_entropy(network.forward(x), labels)
    gradients = network.backward(dy)
    return {
        name: relative_error(gradients[name], numerical_gradient(loss, parameter))
        for name, parameter in network.parameters.items()
    }


def check_everything(seed: int = 0) -> list[tuple[str, float]]:
    """[(what, error)] for every layer on its own, the loss, and a small whole network."""
    rng = np.random.default_rng(seed)
    layers = {
        "convolution 3x3": (Convolution(2, 3, 3, 1, rng, np.float64), (2, 5, 6, 2)),
        "convolution 5x5": (Convolution(2, 3, 5, 2, rng, np.float64), (2, 6, 5, 2)),
        "max pool": (MaxPool(2), (2, 6, 7, 3)),
        "ReLU": (ReLU(), (2, 4, 4, 3)),
        "fully connected": (FullyConnected(12, 5, rng, np.float64), (3, 2, 2, 3)),
    }
    errors = []
    for title, (layer, shape) in layers.items():
        found = check_layer(layer, rng.standard_normal(shape), rng)
        errors += [(f"{title}, d/d {name}", error) for name, error in found.items()]
    logits, labels = rng.standard_normal((4, 10)), rng.integers(0, 10, 4)
    errors.append(("softmax cross-entropy, d/d logits", check_loss(logits, labels)))
    network = Network(seed, np.float64, image_size=8, channels=(2, 3), hidden=5)
    found = check_network(network, rng.random((3, 8, 8, 1)), rng.integers(0, 10, 3))
    return errors + [(f"network, d/d {name}", error) for name, error in found.items()]
