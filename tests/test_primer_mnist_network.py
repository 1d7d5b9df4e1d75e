"""Lesson 6: every gradient against central differences and PyTorch; the optimiser; the training loop."""

import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.primer_mnist_support import assert_close, bundled_digits, lesson, seeds, sides

network, training, checks, mnist = lesson.network, lesson.training, lesson.gradient_check, lesson.mnist


@st.composite
def convolutions(draw):
    """(layer, x, rng) in float64: kernels 1 to 5, any padding that the kernel's backward allows."""
    rng = np.random.default_rng(draw(seeds))
    kernel_size = draw(st.integers(1, 5))
    padding = draw(st.integers(0, kernel_size - 1))
    side = st.integers(max(1, kernel_size - 2 * padding), 7)
    in_channels, out_channels, batch = (draw(st.integers(1, 3)) for _ in range(3))
    layer = network.Convolution(in_channels, out_channels, kernel_size, padding, rng, np.float64)
    layer.bias[:] = rng.standard_normal(out_channels)
    return layer, rng.standard_normal((batch, draw(side), draw(side), in_channels)), rng


@given(convolutions())
@settings(max_examples=25)
def test_convolution_gradients_are_numerical(drawn):
    layer, x, rng = drawn
    for error in checks.check_layer(layer, x, rng).values():
        assert error <= 1e-7


@given(convolutions())
@settings(max_examples=50)
def test_convolution_is_pytorchs(drawn):
    layer, x, rng = drawn
    y = layer.forward(x)
    dy = rng.standard_normal(y.shape)
    leaves = [torch.tensor(array, requires_grad=True) for array in (x, layer.weight, layer.bias)]
    expected = F.conv2d(leaves[0].permute(0, 3, 1, 2), leaves[1].permute(0, 3, 1, 2), leaves[2], padding=layer.padding)
    expected = expected.permute(0, 2, 3, 1)
    expected.backward(torch.tensor(dy))
    gradients = layer.parameter_gradients(dy)
    assert_close(y, expected.detach(), 1e-12)
    assert_close(layer.input_gradient(dy), leaves[0].grad, 1e-12)
    assert_close(gradients["weight"], leaves[1].grad, 1e-12)
    assert_close(gradients["bias"], leaves[2].grad, 1e-12)


@given(sides, sides, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), seeds)
def test_im2col_rows_are_the_windows(height, width, channels, kernel_size, padding, seed):
    x = np.random.default_rng(seed).random((2, height + 2, width + 2, channels))
    columns = network.im2col(x, kernel_size, padding)
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    assert columns.shape[1:3] == (height + 3 + 2 * padding - kernel_size, width + 3 + 2 * padding - kernel_size)
    for i in range(columns.shape[1]):
        for j in range(columns.shape[2]):
            window = padded[:, i : i + kernel_size, j : j + kernel_size]
            assert np.array_equal(columns[:, i, j], window.reshape(2, -1))


@given(st.integers(1, 3), sides, sides, st.integers(1, 3), st.booleans(), seeds)
def test_max_pool_is_pytorchs_even_among_equals(size, height, width, channels, ties, seed):
    rng = np.random.default_rng(seed)
    shape = (2, height + size - 1, width + size - 1, channels)
    x = rng.integers(-1, 2, shape).astype(float) if ties else rng.standard_normal(shape)
    layer = network.MaxPool(size)
    y = layer.forward(x)
    dy = rng.standard_normal(y.shape)
    leaf = torch.tensor(x, requires_grad=True)
    expected = F.max_pool2d(leaf.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
    expected.backward(torch.tensor(dy))
    assert_close(y, expected.detach(), 0)
    assert_close(layer.input_gradient(dy), leaf.grad, 0)


@given(st.integers(2, 3), sides, sides, seeds)
@settings(max_examples=25)
def test_max_pool_gradient_is_numerical(size, height, width, seed):
    rng = np.random.default_rng(seed)
    shape = (1, height + size, width + size, 2)
    x = rng.permutation(np.prod(shape)).reshape(shape) / 100.0  # no two nearer than the step of the differences
    assert checks.check_layer(network.MaxPool(size), x, rng)["input"] <= 1e-7


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 6), st.integers(1, 4), seeds)
@settings(max_examples=25)
def test_fully_connected_gradients_are_numerical_and_pytorchs(shape, out_features, batch, seed):
    rng = np.random.default_rng(seed)
    layer = network.FullyConnected(int(np.prod(shape)), out_features, rng, np.float64)
    x = rng.standard_normal((batch, *shape))
    for error in checks.check_layer(layer, x, rng).values():
        assert error <= 1e-7
    dy = rng.standard_normal((batch, out_features))
    leaves = [torch.tensor(array, requires_grad=True) for array in (x, layer.weight, layer.bias)]
    expected = F.linear(leaves[0].flatten(1), leaves[1], leaves[2])
    expected.backward(torch.tensor(dy))
    assert_close(layer.forward(x), expected.detach(), 1e-12)
    assert_close(layer.input_gradient(dy), leaves[0].grad, 1e-12)
    assert_close(layer.parameter_gradients(dy)["weight"], leaves[1].grad, 1e-12)
    assert_close(layer.parameter_gradients(dy)["bias"], leaves[2].grad, 1e-12)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), seeds)
def test_relu_is_pytorchs_also_at_zero(shape, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, shape).astype(float)
    dy = rng.standard_normal(shape)
    layer = network.ReLU()
    leaf = torch.tensor(x, requires_grad=True)
    F.relu(leaf).backward(torch.tensor(dy))
    assert_close(layer.forward(x), np.maximum(x, 0), 0)
    assert_close(layer.input_gradient(dy), leaf.grad, 0)


@given(st.integers(1, 6), st.integers(2, 12), st.sampled_from([1, 50, 1e4]), seeds)
@settings(max_examples=50)
def test_loss_is_pytorchs(batch, classes, scale, seed):
    rng = np.random.default_rng(seed)
    logits = scale * rng.standard_normal((batch, classes))
    labels = rng.integers(0, classes, batch)
    leaf = torch.tensor(logits, requires_grad=True)
    expected = F.cross_entropy(leaf, torch.tensor(labels))
    expected.backward()
    loss, gradient = network.softmax_cross_entropy(logits, labels)
    assert_close(np.array(loss), expected.detach(), 1e-12)
    assert_close(gradient, leaf.grad, 1e-12)
    assert_close(network.softmax(logits), torch.softmax(leaf, -1).detach(), 1e-12)
    if scale == 1:
        assert checks.check_loss(logits, labels) <= 1e-7


def test_he_initialisation_keeps_the_variance(rng):
    weight = network.he_normal((400, 3, 3, 50), rng, np.float64)
    assert abs(weight.var() * 9 * 50 / 2 - 1) < 0.02  # 180,000 numbers: the variance is known to 0.3 %
    assert abs(weight.mean()) < 0.01


# --- the network and its optimiser ------------------------------------------------------------------------------------


def pytorch_network(parameters, x):
    """The same network in PyTorch, from the header of network.py. parameters: {name: tensor}."""
    y = x.permute(0, 3, 1, 2)
    for name in ("conv1", "conv2"):
        y = F.conv2d(y, parameters[f"{name}.weight"].permute(0, 3, 1, 2), parameters[f"{name}.bias"], padding=2)
        y = F.max_pool2d(F.relu(y), 2)  # ReLU first here: the order makes no difference
    y = F.relu(F.linear(y.permute(0, 2, 3, 1).flatten(1), parameters["fc1.weight"], parameters["fc1.bias"]))
    return F.linear(y, parameters["fc2.weight"], parameters["fc2.bias"])


def test_the_whole_network_is_pytorchs(rng):
    net = network.Network(1, np.float64)
    x, labels = rng.random((5, 28, 28, 1)), rng.integers(0, 10, 5)
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in net.parameters.items()}
    expected = pytorch_network(leaves, torch.tensor(x))
    expected_loss = F.cross_entropy(expected, torch.tensor(labels))
    expected_loss.backward()
    logits = net.forward(x)
    loss, dy = network.softmax_cross_entropy(logits, labels)
    gradients = net.backward(dy)
    assert_close(logits, expected.detach(), 1e-12)
    assert_close(np.array(loss), expected_loss.detach(), 1e-12)
    assert gradients.keys() == leaves.keys()
    for name, gradient in gradients.items():
        assert_close(gradient, leaves[name].grad, 1e-12)


def test_every_gradient_of_the_network_is_numerical(rng):
    net = network.Network(2, np.float64, image_size=8, channels=(2, 2), hidden=4)
    errors = checks.check_network(net, rng.random((2, 8, 8, 1)), rng.integers(0, 10, 2))
    assert len(errors) == 8
    for error in errors.values():
        assert error <= 1e-6


def test_a_wrong_gradient_is_noticed(monkeypatch, capsys):
    assert mnist.main(["check"]) == 0
    assert capsys.readouterr().out.count("ok") == 20
    right = network.MaxPool.input_gradient
    monkeypatch.setattr(network.MaxPool, "input_gradient", lambda layer, dy: 1.01 * right(layer, dy))
    assert mnist.main(["check"]) == 1
    assert "WRONG  max pool, d/d input" in capsys.readouterr().out
    monkeypatch.setattr(mnist, "check_everything", lambda seed: [("broken", np.nan)])
    assert mnist.main(["check"]) == 1


@given(st.integers(1, 8), seeds)
@settings(max_examples=20)
def test_adam_is_pytorchs(steps, seed):
    rng = np.random.default_rng(seed)
    parameters = {"a": rng.standard_normal((3, 4)), "b": rng.standard_normal(5)}
    leaves = {name: torch.tensor(array.copy(), requires_grad=True) for name, array in parameters.items()}
    ours, theirs = training.Adam(parameters), torch.optim.Adam(leaves.values(), lr=1)
    for _ in range(steps):
        learning_rate = rng.random()
        gradients = {name: rng.standard_normal(array.shape) for name, array in parameters.items()}
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(gradients[name])
        theirs.param_groups[0]["lr"] = learning_rate
        theirs.step()
        ours.step(gradients, learning_rate)
    for name, leaf in leaves.items():
        assert_close(parameters[name], leaf.detach(), 1e-12)


def test_the_schedule_is_half_a_cosine():
    rates = [training.cosine_schedule(step, 100, peak=2.0) for step in range(101)]
    assert rates[0] == 2.0 and abs(rates[50] - 1) < 1e-12 and abs(rates[100]) < 1e-12
    assert np.all(np.diff(rates) < 0)


@given(st.integers(1, 4), st.integers(2, 12), st.integers(2, 12), st.floats(0, 0.5), st.floats(0, 4), seeds)
@settings(max_examples=50)
def test_warp_is_scipys(count, height, width, warp, shift, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, height, width), dtype=np.uint8)
    warped = training.random_warp(images, np.random.default_rng(seed), warp, shift)
    again = np.random.default_rng(seed)
    matrices = np.eye(2) + again.uniform(-warp, warp, (count, 2, 2))
    shifts = again.uniform(-shift, shift, (count, 2, 1))[..., 0]
    middle = np.array([height - 1, width - 1]) / 2
    for image, matrix, by, ours in zip(images, matrices, shifts, warped, strict=True):
        offset = middle - matrix @ middle + by
        expected = ndimage.affine_transform(image.astype(float), matrix, offset, order=1, mode="grid-constant")
        assert_close(ours, expected, 1e-4)


def test_training_repeats_bit_for_bit_and_follows_its_seed():
    digits = bundled_digits()
    runs = []
    for seed in (0, 0, 1):
        net = network.Network(seed)
        history = list(training.train_epochs(net, digits.train_images[:130], digits.train_labels[:130], 2, seed))
        runs.append((history, net.parameters))
    (first, ours), (second, same), (other, different) = runs
    assert first == second != other
    assert all(np.array_equal(ours[name], same[name]) for name in ours)
    assert not np.array_equal(ours["conv1.weight"], different["conv1.weight"])
    assert first[1][0] < first[0][0]  # it learns


@given(st.integers(1, 40), st.integers(1, 15))
@settings(max_examples=10)
def test_every_digit_is_seen_once_an_epoch(count, batch_size):
    images = np.zeros((count, 28, 28), np.uint8)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "BATCH_SIZE", batch_size)
        patch.setattr(training, "random_warp", lambda batch, rng: batch)
        net = types.SimpleNamespace(
            parameters={}, forward=lambda x: np.zeros((len(x), 10)), backward=lambda dy: seen.append(len(dy)) or {}
        )
        progress = []
        labels = np.zeros(count, int)
        rows = list(training.train_epochs(net, images, labels, 2, on_batch=lambda *now: progress.append(now)))
    assert [now[0] for now in progress] == seen
    assert all(now[1:] == (pytest.approx(np.log(10)), 1.0) for now in progress)
    assert sum(seen) == 2 * count and max(seen) <= batch_size
    assert rows == [(pytest.approx(np.log(10)), 1.0)] * 2
    whole = training.predict(network.Network(image_size=28, channels=(1, 1), hidden=1), images, batch_size)
    assert whole.shape == (count, 10) and np.allclose(whole.sum(axis=1), 1)
