"""Lesson 6: every gradient against finite differences and PyTorch; the optimiser, the distortions, the loop."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.primer_support import MNIST, assert_close, load, seeds

network, learning, checks, mnist = map(load, ("network", "learning", "gradient_check", "mnist"))
sides = st.integers(1, 7)


def assert_is_pytorchs(layer, theirs, x, dy, tolerance=1e-11):
    """Output and every gradient of `layer` equal those of `theirs(x, weight, bias)`, all in float64."""
    parameters = [getattr(layer, name) for name in ("weight", "bias") if hasattr(layer, name)]
    leaves = [torch.tensor(array, requires_grad=True) for array in (x, *parameters)]
    expected = theirs(*leaves)
    expected.backward(torch.tensor(dy))
    assert_close(layer.forward(x), expected.detach(), tolerance)
    gradients = [layer.input_gradient(dy), *(layer.parameter_gradients(dy).values() if parameters else ())]
    for ours, leaf in zip(gradients, leaves, strict=True):
        assert_close(ours, leaf.grad, tolerance)


@given(st.data(), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), seeds)
@settings(max_examples=40)
def test_convolution(data, kernel_size, in_channels, out_channels, seed):
    """Kernels 1 to 5, any padding that the kernel's backward allows, any size that gives an output."""
    rng = np.random.default_rng(seed)
    padding = data.draw(st.integers(0, kernel_size - 1))
    side = st.integers(max(1, kernel_size - 2 * padding), 7)
    x = rng.standard_normal((data.draw(st.integers(1, 2)), data.draw(side), data.draw(side), in_channels))
    layer = network.Convolution(in_channels, out_channels, kernel_size, padding, rng, np.float64)
    layer.bias[:] = rng.standard_normal(out_channels)

    def theirs(x, weight, bias):
        return F.conv2d(x.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), bias, padding=padding).permute(0, 2, 3, 1)

    assert_is_pytorchs(layer, theirs, x, rng.standard_normal(layer.forward(x).shape))
    assert max(checks.check_layer(layer, x, rng).values()) <= 1e-7


@given(st.integers(1, 3), sides, sides, st.integers(1, 3), st.booleans(), seeds)
def test_max_pool_even_among_equals(size, height, width, channels, ties, seed):
    rng = np.random.default_rng(seed)
    shape = (2, height + size - 1, width + size - 1, channels)
    x = rng.integers(-1, 2, shape) / 1.0 if ties else rng.permutation(np.prod(shape)).reshape(shape) / 100
    layer = network.MaxPool(size)

    def theirs(x):
        return F.max_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)

    assert_is_pytorchs(layer, theirs, x, rng.standard_normal(layer.forward(x).shape), 0)
    if not ties and x.size < 100:  # no two nearer than the step of the differences
        assert checks.check_layer(layer, x, rng)["input"] <= 1e-7


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 6), st.integers(1, 4), seeds)
@settings(max_examples=40)
def test_fully_connected_and_relu(shape, out_features, batch, seed):
    rng = np.random.default_rng(seed)
    layer = network.FullyConnected(int(np.prod(shape)), out_features, rng, np.float64)
    layer.bias[:] = rng.standard_normal(out_features)
    x = rng.integers(-2, 3, (batch, *shape)) / 1.0  # zeros for ReLU
    linear = lambda x, weight, bias: F.linear(x.flatten(1), weight, bias)  # noqa: E731
    assert_is_pytorchs(layer, linear, x, rng.standard_normal((batch, out_features)))
    assert max(checks.check_layer(layer, x, rng).values()) <= 1e-7
    assert_is_pytorchs(network.ReLU(), F.relu, x, rng.standard_normal(x.shape), 0)


@given(st.integers(1, 6), st.integers(2, 12), st.sampled_from([1, 50, 1e4]), seeds)
@settings(max_examples=50)
def test_softmax_and_loss(batch, classes, scale, seed):
    rng = np.random.default_rng(seed)
    logits, labels = scale * rng.standard_normal((batch, classes)), rng.integers(0, classes, batch)
    leaf = torch.tensor(logits, requires_grad=True)
    expected = F.cross_entropy(leaf, torch.tensor(labels))
    expected.backward()
    loss, gradient = network.softmax_cross_entropy(logits, labels)
    assert_close(loss, expected.detach(), 1e-12 * scale)
    assert_close(gradient, leaf.grad, 1e-12)
    assert_close(network.softmax(logits), torch.softmax(leaf, -1).detach(), 1e-12)
    if scale == 1:
        assert checks.check_loss(logits, labels) <= 1e-7


def pytorch_network(parameters, x):
    """The same network in PyTorch, from the header of network.py. parameters: {name: tensor}."""
    y = x.permute(0, 3, 1, 2)
    for name in ("conv1", "conv2"):
        y = F.conv2d(y, parameters[f"{name}.weight"].permute(0, 3, 1, 2), parameters[f"{name}.bias"], padding=2)
        y = F.max_pool2d(F.relu(y), 2)  # ReLU first here: the order makes no difference
    y = F.relu(F.linear(y.permute(0, 2, 3, 1).flatten(1), parameters["fc1.weight"], parameters["fc1.bias"]))
    return F.linear(y, parameters["fc2.weight"], parameters["fc2.bias"])


def test_the_whole_network(rng):
    net = network.Network(1, np.float64)
    x, labels = rng.random((5, 28, 28, 1)), rng.integers(0, 10, 5)
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in net.parameters.items()}
    expected = pytorch_network(leaves, torch.tensor(x))
    expected_loss = F.cross_entropy(expected, torch.tensor(labels))
    expected_loss.backward()
    logits = net.forward(x)
    loss, dy = network.softmax_cross_entropy(logits, labels)
    gradients = net.backward(dy)
    assert_close(logits, expected.detach(), 1e-10)
    assert_close(loss, expected_loss.detach(), 1e-10)
    assert gradients.keys() == leaves.keys()
    for name, leaf in leaves.items():
        assert_close(gradients[name], leaf.grad, 1e-10)


def test_he_initialisation_keeps_the_variance(rng):
    weight = network.he_normal((400, 3, 3, 50), rng, np.float64)
    assert abs(weight.var() * 9 * 50 / 2 - 1) < 0.02  # 180,000 numbers: the variance is known to 0.3 %
    assert abs(weight.mean()) < 0.01


def test_the_check_notices_a_wrong_gradient(monkeypatch):
    def largest():
        return max(error for _, error in checks.check_everything())

    assert largest() <= mnist.GRADIENT_TOLERANCE
    for layer in (network.Convolution, network.MaxPool, network.ReLU, network.FullyConnected):
        right = layer.input_gradient
        with monkeypatch.context() as patch:
            patch.setattr(layer, "input_gradient", lambda self, dy, right=right: 1.001 * right(self, dy))
            assert largest() > 1e-4


@given(st.integers(1, 8), seeds)
@settings(max_examples=20)
def test_adam(steps, seed):
    rng = np.random.default_rng(seed)
    parameters = {"a": rng.standard_normal((3, 4)), "b": rng.standard_normal(5)}
    leaves = {name: torch.tensor(array.copy(), requires_grad=True) for name, array in parameters.items()}
    ours, theirs = learning.Adam(parameters), torch.optim.Adam(leaves.values(), lr=1)
    for _ in range(steps):
        gradients = {name: rng.standard_normal(array.shape) for name, array in parameters.items()}
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(gradients[name])
        theirs.param_groups[0]["lr"] = learning_rate = rng.random()
        theirs.step()
        ours.step(gradients, learning_rate)
    for name, leaf in leaves.items():
        assert_close(parameters[name], leaf.detach(), 1e-12)


@given(st.integers(1, 4), st.integers(2, 12), st.integers(2, 12), st.floats(0, 0.5), st.floats(0, 4), seeds)
@settings(max_examples=50)
def test_random_warp_is_scipys_affine_transform(count, height, width, warp, shift, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, height, width), dtype=np.uint8)
    warped = learning.random_warp(images, np.random.default_rng(seed), warp, shift)
    again = np.random.default_rng(seed)
    matrices = np.eye(2) + again.uniform(-warp, warp, (count, 2, 2))
    shifts = again.uniform(-shift, shift, (count, 2, 1))[..., 0]
    middle = np.array([height - 1, width - 1]) / 2
    for image, matrix, by, ours in zip(images, matrices, shifts, warped, strict=True):
        offset = middle - matrix @ middle + by
        expected = ndimage.affine_transform(image.astype(np.float32), matrix, offset, order=1, mode="grid-constant")
        assert_close(ours, expected, 0.05)


def test_training_learns_from_a_few_hundred_digits():
    """MNIST's where they are at hand, else scikit-learn's."""
    digits = load("digits").load_digits(MNIST if MNIST.exists() else None, None)
    net = network.Network(0)
    history = list(learning.train_epochs(net, digits.train_images[:300], digits.train_labels[:300], 6))
    assert history[-1][0] < 0.7 * history[0][0]
    _, accuracy, probabilities = learning.evaluate(net, digits.test_images[:400], digits.test_labels[:400])
    assert accuracy >= 0.6 and np.abs(probabilities.sum(axis=1) - 1).max() < 1e-5


def test_training_repeats_bit_for_bit_and_follows_its_seed(rng):
    images, labels = rng.integers(0, 256, (100, 28, 28), dtype=np.uint8), rng.integers(0, 10, 100)
    weights = []
    for seed in (0, 0, 1):
        net = network.Network(0)
        list(learning.train_epochs(net, images, labels, 1, seed))
        weights.append(net.parameters["conv1.weight"])
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])
