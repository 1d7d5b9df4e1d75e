"""Adam, the learning rate's schedule, random distortions, and the training loop."""

from collections.abc import Iterator

import numpy as np
from network import Network, softmax, softmax_cross_entropy
from numpy.typing import NDArray
from tqdm import tqdm

BATCH_SIZE = 64
LEARNING_RATE = 2e-3
WARP = 0.3  # largest change of each entry of the 2x2 matrix that places a training picture's pixels
SHIFT = 2  # pixels


class Adam:
    """Kingma and Ba 2015, algorithm 1. Updates the arrays of `parameters` in place."""

    def __init__(self, parameters: dict[str, NDArray], beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8):
        self.parameters = parameters
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.mean = {name: np.zeros_like(array) for name, array in parameters.items()}
        self.square = {name: np.zeros_like(array) for name, array in parameters.items()}
        self.steps = 0

    def step(self, gradients: dict[str, NDArray], learning_rate: float) -> None:
        """Move every parameter against its averaged gradient, in units of the gradient's usual size."""
        self.steps += 1
        mean_correction = 1 - self.beta1**self.steps  # the averages start at zero: undo that bias
        square_correction = 1 - self.beta2**self.steps
        for name, parameter in self.parameters.items():
            mean, square, gradient = self.mean[name], self.square[name], gradients[name]
            mean += (1 - self.beta1) * (gradient - mean)
            square += (1 - self.beta2) * (gradient * gradient - square)
            size = np.sqrt(square / square_correction) + self.epsilon
            parameter -= learning_rate * (mean / mean_correction) / size


def cosine_schedule(step: int, steps: int, peak: float = LEARNING_RATE) -> float:
    """Half a cosine from `peak` at step 0 down to 0 at `steps` (Loshchilov and Hutter 2017)."""
    return peak * 0.5 * (1 + np.cos(np.pi * step / steps).item())


def to_input(images: NDArray) -> NDArray[np.float32]:
    """(n, 28, 28) in 0..255 -> (n, 28, 28, 1) float32 in 0..1."""
    return images[..., np.newaxis].astype(np.float32) / 255


def random_warp(
    images: NDArray, rng: np.random.Generator, warp: float = WARP, shift: float = SHIFT
) -> NDArray[np.float32]:
    """Turn, shear, stretch and shift every picture a little, each by its own random amounts.

    The pixel at p takes the value at q = (I + E)(p - c) + c + t, where c is the picture's middle, the four numbers
    of E lie within +-warp and the two of t within +-shift pixels: bilinear between the four pixels around q, zero
    outside. images: (n, height, width), any real dtype -> float32 of the same shape and range.
    """
    count, height, width = images.shape
    middle = np.array([[(height - 1) / 2], [(width - 1) / 2]])
    matrix = np.eye(2) + rng.uniform(-warp, warp, (count, 2, 2))
    source = matrix @ (np.indices((height, width)).reshape(2, -1) - middle)  # (n, 2, height * width)
    source += middle + rng.uniform(-shift, shift, (count, 2, 1))
    source = np.clip(source, -1, [[height], [width]]) + 1  # one pixel of zeros around, and one more to the right
    padded = np.pad(images, ((0, 0), (1, 2), (1, 2))).reshape(count, -1)
    corner = source.astype(np.intp)
    below, after = np.moveaxis((source - corner).astype(np.float32), 1, 0)
    start = corner[:, 0] * (width + 3) + corner[:, 1]
    warped = np.zeros((count, height * width), np.float32)
    for row, row_weight in enumerate((1 - below, below)):
        for column, column_weight in enumerate((1 - after, after)):
            pixels = np.take_along_axis(padded, start + row * (width + 3) + column, axis=1)
            warped += row_weight * column_weight * pixels
    return warped.reshape(images.shape)


def train_epochs(
    network: Network, images: NDArray, labels: NDArray, epochs: int, seed: int = 0
) -> Iterator[tuple[float, float]]:
    """Train for `epochs` passes over the digits; a generator that yields (loss, accuracy) after each.

    images: (n, 28, 28) uint8; labels: (n,) integers. Loss and accuracy are means over the epoch's warped digits,
    each taken just before the network learned from it.
    """
    rng = np.random.default_rng([seed, 1])  # a stream of its own: the network's weights came from `seed`
    optimizer = Adam(network.parameters)
    steps = epochs * -(-len(images) // BATCH_SIZE)
    for _ in range(epochs):
        order = rng.permutation(len(images))
        total_loss, correct = 0.0, 0
        for start in tqdm(range(0, len(order), BATCH_SIZE), unit="batch", leave=False, disable=None):
            batch = order[start : start + BATCH_SIZE]
            logits = network.forward(to_input(random_warp(images[batch], rng)))
            loss, gradient = softmax_cross_entropy(logits, labels[batch])
            optimizer.step(network.backward(gradient), cosine_schedule(optimizer.steps, steps))
            total_loss += loss.item() * len(batch)
            correct += int((logits.argmax(axis=1) == labels[batch]).sum())
        yield total_loss / len(images), correct / len(images)


def predict(network: Network, images: NDArray, batch_size: int = 256) -> NDArray:
    """(n, 28, 28) uint8 -> probabilities (n, 10). In batches, so that the im2col of 10,000 pictures fits."""
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    return np.concatenate([softmax(network.forward(to_input(batch))) for batch in batches])


def evaluate(network: Network, images: NDArray, labels: NDArray) -> tuple[float, float, NDArray]:
    """(mean cross-entropy, accuracy, probabilities (n, 10)) over a data set."""
    probabilities = predict(network, images)
    chosen = probabilities[np.arange(len(labels)), labels]
    loss = -np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean()
    return loss.item(), (probabilities.argmax(axis=1) == labels).mean().item(), probabilities
