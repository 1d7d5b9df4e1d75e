"""Lesson 6: gradients against central differences and PyTorch, the data, the pictures, the program."""

import gzip
import io
import json
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from tests.primer_support import is_excerpt

LESSON = Path(__file__).resolve().parents[1] / "primer" / "6_mnist"
MODULES = ("network", "digit", "data", "training", "gradient_check", "report", "mnist")
REAL_DIGITS = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist_10k.npz"


def load():
    """The lesson's modules, as one namespace; none stays in `sys.modules`."""
    hidden = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    sys.path.insert(0, str(LESSON))
    try:
        return types.SimpleNamespace(**{name: __import__(name) for name in MODULES})
    finally:
        sys.path.remove(str(LESSON))
        for name in MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


lesson = load()
network, digit, data, training, checks, report, mnist = (getattr(lesson, name) for name in MODULES)

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 7)


def assert_close(actual, expected, tolerance):
    """Same shape, finite, and nowhere further apart than `tolerance` of the largest expected number."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape and np.isfinite(actual).all() and np.isfinite(expected).all()
    assert np.abs(actual - expected).max() <= tolerance * max(1, np.abs(expected).max())


def draw_digit(value, size=(300, 200), at=(170, 40), ink=20, paper=255, height=110):
    """A digit of Pillow's own font."""
    picture = Image.new("L", size, paper)
    ImageDraw.Draw(picture).text(at, str(value), fill=ink, font=ImageFont.load_default(size=height))
    return picture


def to_network(picture):
    """A Pillow picture as the network gets it, (28, 28) uint8."""
    return digit.centre_digit(digit.find_ink(digit.to_gray(picture)))


def distance(one, other):
    """Mean difference of two 28x28 pictures, 0..255, where a centre rounded to the next pixel makes none."""
    one, other = one.astype(float), other.astype(float)
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return min(np.abs(np.roll(one, shift, (0, 1)) - other).mean() for shift in shifts)


# --- layers -----------------------------------------------------------------------------------------------------------


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
    digits = data.load_digits()
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
        rows = list(training.train_epochs(net, images, np.zeros(count, int), 2))
    assert sum(seen) == 2 * count and max(seen) <= batch_size
    assert rows == [(pytest.approx(np.log(10)), 1.0)] * 2
    whole = training.predict(network.Network(image_size=28, channels=(1, 1), hidden=1), images, batch_size)
    assert whole.shape == (count, 10) and np.allclose(whole.sum(axis=1), 1)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.npz"
    network.Network(3).save(path, "three")
    return path


def test_weights_come_back_and_files_repeat(weights_file, tmp_path):
    net = network.Network(4)
    assert net.load(weights_file) == "three"
    assert all(np.array_equal(net.parameters[name], array) for name, array in network.Network(3).parameters.items())
    assert np.array_equal(net.layers["fc1"].weight, network.Network(3).parameters["fc1.weight"])
    net.save(tmp_path / "again.npz", "three")
    assert (tmp_path / "again.npz").read_bytes() == weights_file.read_bytes()


@given(st.data())
@settings(max_examples=40)
def test_damaged_weights_are_one_error(weights_file, tmp_path_factory, drawn):
    content = bytearray(weights_file.read_bytes())
    if drawn.draw(st.booleans(), "cut"):
        del content[drawn.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(drawn.draw(st.integers(1, 5))):
            content[drawn.draw(st.integers(0, len(content) - 1))] ^= drawn.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "weights.npz"
    path.write_bytes(content)
    net, untouched = network.Network(5), network.Network(5)
    try:
        net.load(path)
    except network.WeightsError as error:
        assert str(path) in str(error)
        assert all(np.array_equal(array, untouched.parameters[name]) for name, array in net.parameters.items())
    else:  # a flipped bit where zip keeps no checksum: its dates, its comments
        expected = network.Network(3).parameters
        assert all(np.array_equal(array, expected[name]) for name, array in net.parameters.items())


def test_foreign_weights_are_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    parameters = network.Network(0).parameters
    wrong = {
        "missing": {name: array for name, array in parameters.items() if name != "fc2.bias"},
        "shape": {**parameters, "conv1.weight": parameters["conv1.weight"][:8]},
        "dtype": {**parameters, "fc2.bias": parameters["fc2.bias"].astype(np.float64)},
        "nan": {**parameters, "fc2.bias": np.full(10, np.nan, np.float32)},
        "pickle": {**parameters, "fc2.bias": np.array([Payload()], dtype=object)},
    }
    for name, arrays in wrong.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(network.WeightsError, match=f"{name}.npz"):
            network.Network(0).load(tmp_path / f"{name}.npz")
    assert not (tmp_path / "executed").exists()
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(network.WeightsError, match=r"one\.npy"):
        network.Network(0).load(tmp_path / "one.npy")


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.npz"
    network.Network(0).save(path, "old")

    def interrupted(file, **arrays):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        network.Network(1).save(path, "new")
    assert network.Network(2).load(path) == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["weights.npz"]


# --- data -------------------------------------------------------------------------------------------------------------


def idx_bytes(array):
    header = b"\x00\x00\x08" + bytes([array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    return header + array.tobytes()


def small_digits(rng, count=30):
    return rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10


def write_idx(directory, rng, gz=False, dots=False):
    """The four files of a small MNIST; returns their arrays by name."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, prefix, count in (("train", "train", 30), ("test", "t10k", 20)):
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = small_digits(rng, count)
        for kind, name in (("images", "images-idx3-ubyte"), ("labels", "labels-idx1-ubyte")):
            content = idx_bytes(arrays[f"{part}_{kind}"])
            name = f"{prefix}-{name.replace('-idx', '.idx') if dots else name}"
            (directory / (name + ".gz" * gz)).write_bytes(gzip.compress(content) if gz else content)
    return arrays


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("dots", [False, True])
@pytest.mark.parametrize("below", ["", "MNIST/raw"])
def test_idx_directories_are_read(tmp_path, rng, gz, dots, below):
    expected = write_idx(tmp_path / below, rng, gz, dots)
    digits = data.load_digits(str(tmp_path))
    assert digits.name == "MNIST" and digits.train_labels.dtype == np.int64
    for name, array in expected.items():
        assert np.array_equal(getattr(digits, name), array)


@given(st.data())
@settings(max_examples=60)
def test_damaged_idx_files_are_one_error(tmp_path_factory, drawn):
    directory = tmp_path_factory.mktemp("idx")
    gz = drawn.draw(st.booleans(), "gz")
    write_idx(directory, np.random.default_rng(0), gz)
    path = drawn.draw(st.sampled_from(sorted(directory.iterdir())))
    content = path.read_bytes()
    path.write_bytes(content[: drawn.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(data.DataError, match=re.escape(str(directory))):
        data.load_digits(directory)


def test_data_that_is_not_digits_is_one_error(tmp_path, rng):
    images, labels = small_digits(rng, 100)
    wrong = {
        "keys": {"images": images},
        "float": {"images": images / 255, "labels": labels},
        "size": {"images": images[:, :20], "labels": labels},
        "count": {"images": images, "labels": labels[:-1]},
        "letters": {"images": images, "labels": labels + 5},
        "rare": {"images": images[:11], "labels": labels[:11]},
        "none": {"images": images[:0], "labels": labels[:0]},
        "pickled": {"images": images, "labels": labels.astype(object)},
        "fractions": {"images": images, "labels": labels / 2},
    }
    for name, arrays in wrong.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(data.DataError, match=f"{name}.npz"):
            data.load_digits(tmp_path / f"{name}.npz")
    (tmp_path / "text.npz").write_text("not a zip file")
    with pytest.raises(data.DataError, match=r"text\.npz"):
        data.load_digits(tmp_path / "text.npz")
    with pytest.raises(data.DataError, match="no train-images-idx3-ubyte"):
        data.load_digits(tmp_path)
    with pytest.raises(data.DataError, match="no such file"):
        data.load_digits(tmp_path / "absent")
    write_idx(tmp_path / "idx", rng)
    (tmp_path / "idx" / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels[:7]))
    with pytest.raises(data.DataError, match="expected 30 integers"):
        data.load_digits(tmp_path / "idx")


def test_a_fifth_of_every_class_is_held_out_always_the_same(tmp_path, rng):
    images, labels = small_digits(rng, 100)
    order = np.argsort(labels, kind="stable")  # sorted by class, as such files often are
    np.savez(tmp_path / "digits.npz", images=images[order], labels=labels[order])
    first, second = (data.load_digits(tmp_path / "digits.npz") for _ in range(2))
    assert np.bincount(first.test_labels).tolist() == [2] * 10
    assert np.bincount(first.train_labels).tolist() == [8] * 10
    assert np.array_equal(first.test_images, second.test_images)
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for image, label in zip(
        [*first.train_images, *first.test_images], [*first.train_labels, *first.test_labels], strict=True
    ):
        assert known.pop(image.tobytes()) == label
    assert not known


def test_scikit_learns_digits_take_mnists_form():
    digits = data.load_digits()
    images = np.concatenate([digits.train_images, digits.test_images])
    assert images.shape == (1797, 28, 28) and images.dtype == np.uint8 and (images.max(axis=(1, 2)) == 255).all()
    assert len(digits.test_images) == 360
    boxes = [np.ptp(np.flatnonzero(images.any(axis=(0, axis)))) + 1 for axis in (1, 2)]
    assert max(boxes) <= 28
    for image in images[::20]:
        sides = [np.ptp(np.flatnonzero(image.any(axis=axis))) + 1 for axis in (0, 1)]
        assert 19 <= max(sides) <= 20


def test_download_uses_torchvision_and_fails_in_one_line(tmp_path, monkeypatch, rng, capsys):
    calls = []

    def fake(root, download):
        calls.append((root, download))
        write_idx(Path(root) / "MNIST" / "raw", rng)

    def use(download):
        module = types.ModuleType("torchvision.datasets")
        module.MNIST = download
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.datasets", module)

    def offline(root, download):
        raise RuntimeError("Error downloading\ntrain-images")

    use(fake)
    assert len(data.load_digits("download", download_to=tmp_path).train_images) == 30
    assert calls == [(tmp_path, True)]
    use(offline)
    assert mnist.main(["train", "--data", "download", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Error downloading train-images" in error and "idx files" in error
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)  # not installed
    assert mnist.main(["train", "--data", "download"]) == 1
    assert "needs torchvision" in capsys.readouterr().err


# --- pictures of digits -----------------------------------------------------------------------------------------------


def mnist_digits():
    """Digits in MNIST's form, (n, 28, 28): real ones where there are some, scikit-learn's otherwise."""
    if REAL_DIGITS.exists():
        return np.load(REAL_DIGITS, allow_pickle=False)["images"][::50]
    return data.sklearn_digits()[0][::10]


def test_mnists_own_digits_stay_as_they_are():
    """The crop, the 20x20 box and the centre of mass are MNIST's: its pictures come out nearly unchanged."""
    images = mnist_digits()
    again = np.stack([digit.centre_digit(digit.find_ink(image.astype(np.float32))) for image in images])
    difference = np.abs(again.astype(float) - images).mean(axis=(1, 2))
    assert np.median(difference) == 0  # most of them not even in one pixel
    assert difference.mean() <= 0.5  # of 255; a digit moved by one pixel is 10 or more away


@pytest.mark.parametrize("value", range(10))
def test_the_same_digit_inverted_scaled_moved_coloured_or_as_jpeg_looks_the_same(value):
    plain = to_network(draw_digit(value))
    jpeg = io.BytesIO()
    draw_digit(value).save(jpeg, "JPEG", quality=30)
    grain = np.random.default_rng(value).normal(0, 4, (200, 300))
    variants = {
        "inverted": draw_digit(value, ink=235, paper=0),
        "moved": draw_digit(value, at=(10, 2)),
        "large": draw_digit(value, size=(900, 900), at=(400, 90), height=330),
        "coloured": Image.merge("RGB", [draw_digit(value, ink=90), draw_digit(value, ink=0), draw_digit(value, ink=0)]),
        "jpeg": Image.open(jpeg),
        "grainy": Image.fromarray(np.clip(np.asarray(draw_digit(value, paper=230)) + grain, 0, 255).astype(np.uint8)),
        "turned by EXIF": draw_digit(value).transpose(Image.Transpose.ROTATE_90),
    }
    variants["turned by EXIF"].getexif()[0x0112] = 6
    for name, picture in variants.items():
        assert distance(to_network(picture), plain) <= 8, name
    for other in set(range(10)) - {value}:
        assert distance(to_network(draw_digit(other)), plain) > 11


MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LA", "La", "RGBa", "RGBX", "I", "F", "I;16")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("inverted", [False, True])
def test_every_mode_shows_the_digit(mode, inverted):
    ink, paper = (255, 0) if inverted else (0, 255)
    picture = draw_digit(5, ink=ink, paper=paper)
    plain = to_network(picture)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 64)
    elif mode in ("La", "RGBa"):
        picture = picture.convert("LA" if mode == "La" else "RGBA").convert(mode)
    else:
        picture = picture.convert(mode)
    assert picture.mode == mode
    assert distance(to_network(picture), plain) <= 10  # mode 1 dithers the gray edges


@pytest.mark.parametrize("ink", [0, 255])
def test_ink_on_transparent_paper_is_seen(ink):
    alpha = draw_digit(3, ink=255, paper=0)
    picture = Image.merge("LA", [Image.new("L", alpha.size, ink), alpha])
    assert distance(to_network(picture), to_network(alpha)) <= 8


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 255), st.integers(0, 255), seeds)
def test_any_picture_is_a_digit_or_refused(height, width, low, high, seed):
    low, high = sorted((low, high))
    gray = np.random.default_rng(seed).integers(low, high + 1, (height, width)).astype(np.float32)
    try:
        ink = digit.find_ink(gray)
    except digit.DigitError as error:
        assert np.ptp(gray) < 2 * digit.MINIMUM_CONTRAST and "no digit found" in str(error)
        return
    assert np.isfinite(ink).all() and ink.max() == 1 and ink.min() >= 0
    result = digit.centre_digit(ink)
    assert result.shape == (28, 28) and result.dtype == np.uint8 and result.max() == 255


def test_unreadable_and_empty_pictures_are_one_line(tmp_path, weights_file, capsys):
    picture = draw_digit(3)
    picture.save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("L", (50, 40), 200).save(tmp_path / "empty.png")
    Image.new("F", (5, 4), float("nan")).save(tmp_path / "nan.tiff")
    Image.new("RGBA", (50, 40), (0, 0, 0, 0)).save(tmp_path / "transparent.png")
    bad = {
        "absent.png": "no such file",
        "cut.png": "cannot be read",
        "text.png": "not a picture",
        "empty.png": "no digit found",
        "nan.tiff": "not finite",
        "transparent.png": "no digit found",
        ".": "cannot be read",
    }
    for name, reason in bad.items():
        status = mnist.main(["predict", str(tmp_path / name), "--weights", str(weights_file)])
        error = capsys.readouterr().err
        assert status == 1 and error.count("\n") == 1 and reason in error and str(tmp_path) in error
    names = [str(tmp_path / name) for name in ("empty.png", "whole.png")]
    assert mnist.main(["predict", *names, "--weights", str(weights_file)]) == 1
    assert "whole.png: " in capsys.readouterr().out  # one bad picture does not hide the others


# --- the program ------------------------------------------------------------------------------------------------------


def run(*arguments, cwd):
    """The script as a reader runs it."""
    return subprocess.run(
        [sys.executable, str(LESSON / "mnist.py"), *map(str, arguments)],
        cwd=cwd, text=True, capture_output=True, timeout=300,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run on scikit-learn's digits, started as a reader starts it: (its directory, what it printed)."""
    directory = tmp_path_factory.mktemp("trained")
    finished = run("--epochs", 4, cwd=directory)
    assert finished.returncode == 0, finished.stderr
    return directory / "mnist_out", finished.stdout


def test_a_short_training_reads_nine_held_out_digits_of_ten(trained):
    out, printed = trained
    (result,) = json.loads((out / "results.json").read_text())
    assert result["test_accuracy"] >= 0.9 and result["epochs"] == 4 and result["test_digits"] == 360
    assert f"{100 * result['test_accuracy']:.2f} % of the held-out digits right" in printed
    assert len(re.findall(r"^epoch", printed, re.MULTILINE)) == 4
    # The printed confusion matrix: ten rows whose numbers add up to the held-out digits.
    rows = [re.split(r"\s*[│|]\s*", line)[2:-2] for line in printed.splitlines() if re.match(r"[│|]\s+\d", line)]
    counts = np.array([[int(cell) if cell.isdigit() else 0 for cell in row] for row in rows])
    assert counts.shape == (10, 10) and counts.sum() == 360
    assert counts.sum() - np.trace(counts) == result["mistakes"] == round(360 * (1 - result["test_accuracy"]))


def test_the_files_of_a_training_belong_together(trained):
    out, _ = trained
    assert sorted(path.name for path in out.iterdir()) == ["curves.png", "mistakes.png", "results.json", "weights.npz"]
    for name in ("curves.png", "mistakes.png"):
        with Image.open(out / name) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50  # more than an empty page
    (result,) = json.loads((out / "results.json").read_text())
    net, digits = network.Network(), data.load_digits()
    description = net.load(out / "weights.npz")
    loss, accuracy, probabilities = training.evaluate(net, digits.test_images, digits.test_labels)
    assert abs(accuracy - result["test_accuracy"]) < 1e-4 and abs(loss - result["test_loss"]) < 1e-4
    assert "epoch 4 of 4" in description and f"{100 * accuracy:.2f} %" in description
    assert (probabilities.argmax(axis=1) != digits.test_labels).sum() == result["mistakes"]


def test_held_out_digits_are_read_from_pictures(trained, tmp_path, capsys):
    """Drawn large, dark on a light page, off centre, saved as JPEG: read as well as from their own 28x28 pixels."""
    out, _ = trained
    digits = data.load_digits()
    rng = np.random.default_rng(0)
    names = []
    for index in range(40):
        ink = Image.fromarray(digits.test_images[index]).resize((168, 168), Image.Resampling.BICUBIC)
        page = Image.new("RGB", (500, 400), (235, 232, 225))
        page.paste((40, 40, 90), tuple(rng.integers(0, 200, 2).tolist()), ink)
        names.append(str(tmp_path / f"{index}.jpg"))
        page.save(names[-1], quality=60)
    assert mnist.main(["predict", *names, "--weights", str(out / "weights.npz")]) == 0
    printed = capsys.readouterr().out
    answers = [int(answer) for answer in re.findall(r"\.jpg: (\d) \(", printed)]
    assert len(answers) == 40
    net = network.Network()
    net.load(out / "weights.npz")
    direct = training.predict(net, digits.test_images[:40]).argmax(axis=1)
    assert (direct == answers).mean() >= 0.95
    assert (digits.test_labels[:40] == answers).mean() >= 0.85


def test_stages_show_the_way_through_the_network(trained, tmp_path, capsys):
    draw_digit(2).save(tmp_path / "two.png")
    weights = ["--weights", str(trained[0] / "weights.npz")]
    stages = str(tmp_path / "stages.png")
    assert mnist.main(["predict", str(tmp_path / "two.png"), "--stages", stages, *weights]) == 0
    with Image.open(stages) as picture:
        assert picture.width > 1000 and len(np.unique(np.asarray(picture.convert("L")))) > 50
    with pytest.raises(SystemExit) as stopped:
        mnist.main(["predict", "a.png", "b.png", "--stages", stages])
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def small_data(tmp_path):
    """Two hundred digits as an .npz, so that an epoch is short."""
    images, labels = data.sklearn_digits()
    path = tmp_path / "small.npz"
    np.savez(path, images=images[:200], labels=labels[:200])
    return path


def test_control_c_keeps_the_last_finished_epoch(small_data, tmp_path, monkeypatch, capsys):
    finished = []

    def evaluate(net, images, labels):
        if len(finished) == 2:
            raise KeyboardInterrupt
        finished.append({name: array.copy() for name, array in net.parameters.items()})
        return training.evaluate(net, images, labels)

    monkeypatch.setattr(mnist, "evaluate", evaluate)
    with pytest.raises(SystemExit) as stopped:
        mnist.main(["train", "--data", str(small_data), "--out", str(tmp_path / "out")])
    weights = tmp_path / "out" / "weights.npz"
    assert stopped.value.code == 130
    assert f"interrupted; the weights of epoch 2 are in {weights}" in capsys.readouterr().err
    net = network.Network(9)
    assert "epoch 2 of" in net.load(weights)
    assert all(np.array_equal(array, finished[1][name]) for name, array in net.parameters.items())


def test_a_real_interrupt_ends_without_a_traceback(small_data, tmp_path):
    command = [sys.executable, "-u", str(LESSON / "mnist.py"), "train", "--data", str(small_data), "--epochs", "1000"]
    process = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not process.stdout.readline().startswith("epoch  2"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the weights of epoch" in errors and "Traceback" not in printed + errors
    assert "small.npz" in network.Network().load(tmp_path / "mnist_out" / "weights.npz")


def test_bad_arguments_and_files_are_one_line(tmp_path, capsys, small_data):
    (tmp_path / "foreign.json").write_text('{"not": "a list of runs"}')
    (tmp_path / "file").write_text("in the way")
    for arguments in (
        ["train", "--data", str(tmp_path / "absent")],
        ["train", "--data", str(small_data), "--out", str(tmp_path / "file")],
        ["train", "--data", str(small_data), "--out", str(tmp_path), "--record", str(tmp_path / "foreign.json")],
        ["predict", "digit.png", "--weights", str(tmp_path / "absent.npz")],
        ["predict", "digit.png", "--weights", str(tmp_path / "foreign.json")],
    ):
        assert mnist.main(arguments) == 1
        printed = capsys.readouterr()
        assert printed.err.startswith("mnist.py: ") and printed.err.count("\n") == 1 and str(tmp_path) in printed.err
    assert (tmp_path / "foreign.json").read_text() == '{"not": "a list of runs"}'
    for arguments in (["--epochs", "0"], ["--epochs", "many"], ["--seed", "-1"], ["dance"], ["predict"]):
        with pytest.raises(SystemExit) as stopped:
            mnist.main(arguments)
        assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_no_command_means_train():
    for arguments in ([], ["--seed", "7"]):
        options = mnist.parse_arguments(arguments)
        assert options.run is mnist.train and options.data is None and options.out == Path("mnist_out")


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 3), st.integers(0, 99)), max_size=8))
@settings(max_examples=20)
def test_recorded_runs_replace_their_predecessors(tmp_path_factory, runs):
    path = tmp_path_factory.mktemp("record") / "new" / "results.json"
    for name, seed, mistakes in runs:
        report.record_run({"data": name, "seed": seed, "mistakes": mistakes}, path)
    expected = {(name, seed): mistakes for name, seed, mistakes in runs}
    assert {(run["data"], run["seed"]): run["mistakes"] for run in report.read_runs(path)} == expected
    assert len(report.read_runs(path)) == len(expected)


def test_a_recorded_run_rewrites_the_table_of_the_article_beside_it(tmp_path):
    runs = report.read_runs(LESSON / "results.json")
    article = tmp_path / "README.md"
    article.write_text(f"before\n{report.TABLE_START}old\n{report.TABLE_END}\nafter\n")
    for run in reversed(runs):
        report.record_run(run, tmp_path / "results.json")
    assert report.read_runs(tmp_path / "results.json") == runs
    table = report.results_table(runs)
    assert article.read_text() == f"before\n{report.TABLE_START}{table}{report.TABLE_END}\nafter\n"
    assert table.count("\n| ") == 1 + len(runs)


# --- the article ------------------------------------------------------------------------------------------------------

ARTICLE = (LESSON / "README.md").read_text(encoding="utf-8")


def test_the_articles_code_is_the_sources():
    sources = [path.read_text(encoding="utf-8") for path in LESSON.glob("*.py")]
    blocks = re.findall(r"```python\n(.*?)```", ARTICLE, re.DOTALL)
    assert len(blocks) >= 10
    for block in blocks:
        pieces = block.split("\n\n")  # a blank line stands for what is left out
        assert all(any(is_excerpt(piece, source) for source in sources) for piece in pieces), block


def test_the_articles_results_are_the_recorded_ones():
    runs = report.read_runs(LESSON / "results.json")
    assert f"{report.TABLE_START}{report.results_table(runs)}{report.TABLE_END}" in ARTICLE
    assert {(run["data"], run["seed"]) for run in runs} == {
        (name, seed) for name in ("mnist_10k.npz", "scikit-learn digits") for seed in (0, 1, 2)
    }
    for run in runs:
        assert run["test_accuracy"] == pytest.approx(1 - run["mistakes"] / run["test_digits"], abs=1e-5)
        assert run["epochs"] == mnist.default_epochs(run["train_digits"])
        assert run["test_accuracy"] >= (0.975 if run["data"].startswith("mnist") else 0.98)


def test_the_articles_table_of_layers_is_the_networks():
    net = network.Network()
    outputs = {}
    net.forward(np.zeros((1, 28, 28, 1), np.float32), lambda name, y: outputs.__setitem__(name, y.shape[1:]))
    multiply_adds = {
        name: int(np.prod(outputs[name][:-1])) * layer.weight.size
        for name, layer in net.layers.items()
        if hasattr(layer, "weight")
    }
    for name, work in multiply_adds.items():
        shape = "x".join(map(str, outputs[name]))
        parameters = net.parameters[f"{name}.weight"].size + net.parameters[f"{name}.bias"].size
        if name == "fc1":
            assert f"| `fc1`, `relu3` | {shape} | {parameters:,} | {work:,} |" in ARTICLE
        else:
            assert re.search(rf"\| `{name}`[^|]*\| {shape} \| {parameters:,} \| {work:,} \|", ARTICLE), name
    total = sum(array.size for array in net.parameters.values())
    assert f"| together | | {total:,} | {sum(multiply_adds.values()):,} |" in ARTICLE
    convolutions = multiply_adds["conv1"] + multiply_adds["conv2"]
    assert f"{100 * convolutions / sum(multiply_adds.values()):.0f} % of the arithmetic with 6 %" in ARTICLE
    kernels = sum(net.parameters[f"conv{i}.{kind}"].size for i in (1, 2) for kind in ("weight", "bias"))
    assert round(100 * kernels / total) == 6
    assert round(4.09e9 / sum(multiply_adds.values()), -1) == 1350 and "about 1,350 times" in ARTICLE


def test_the_articles_constants_are_the_sources():
    assert f"starts at {training.LEARNING_RATE:g} and" in ARTICLE
    assert f"(each up to {training.WARP:g} either way)" in ARTICLE and f"(up to {training.SHIFT} pixels)" in ARTICLE
    assert f"comes from {training.BATCH_SIZE} digits" in ARTICLE
    assert mnist.default_epochs(60_000) == 4 and "four epochs of it are the default" in ARTICLE
    assert f"{np.log(10):.2f}" in ARTICLE
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", ARTICLE):
        assert (LESSON / name).stat().st_size < 200_000
