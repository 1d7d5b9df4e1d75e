"""Lesson 6: the program as a reader runs it, its data, pictures of digits, its article."""

import gzip
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from tests.primer_support import MNIST, PRIMER, assert_articles_code_is_in, assert_one_line, call, load, seeds

LESSON = PRIMER / "6_mnist"
network, digits, learning, mnist = map(load, ("network", "digits", "learning", "mnist"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Where a reader trained for two epochs, and what that printed."""
    directory = tmp_path_factory.mktemp("trained")
    command = [sys.executable, LESSON / "mnist.py", "train", "--epochs", "2"]
    done = subprocess.run(command, cwd=directory, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return directory / "mnist_out", done.stdout


def test_training_reports_what_it_saved(trained):
    out, printed = trained
    assert sorted(path.name for path in out.iterdir()) == ["curves.png", "mistakes.png", "weights.safetensors"]
    net, data = network.Network(5), digits.load_digits(None, None)
    assert net.load(out / "weights.safetensors") == "scikit-learn digits, seed 0, epoch 2 of 2"
    _, accuracy, probabilities = learning.evaluate(net, data.test_images, data.test_labels)
    mistakes = np.count_nonzero(probabilities.argmax(axis=1) != data.test_labels)
    assert accuracy >= 0.8 and f"\n{mistakes} mistakes, {accuracy:.2%} right" in printed
    confusion = np.array(re.findall(r"\d+", printed[printed.index("[[") : printed.index("]]")]), int).reshape(10, 10)
    assert confusion.sum() == 360 and confusion.sum() - np.trace(confusion) == mistakes


def test_digits_are_read_from_pictures_of_pages(trained, tmp_path, monkeypatch, capsys):
    """Off centre, of any size, dark on light or light on dark, grainy, as JPEG: read as from their own 28x28 pixels."""
    monkeypatch.chdir(tmp_path)
    weights = trained[0] / "weights.safetensors"
    net, data, rng = network.Network(), digits.load_digits(None, None), np.random.default_rng(0)
    for index in range(40):
        side = int(rng.integers(60, 220))
        ink = Image.fromarray(data.test_images[index]).resize((side, side), Image.Resampling.BICUBIC)
        page, colour = np.full((400, 500, 3), 225.0), (40, 40, 90)
        if index % 2:
            page, colour = 255 - page, (230, 240, 200)
        page = Image.fromarray(np.clip(page + rng.normal(0, 4, page.shape), 0, 255).astype(np.uint8))
        page.paste(colour, tuple(rng.integers(0, 180, 2).tolist()), ink)
        page.save(f"{index}.jpg", quality=60)
    assert call("mnist", "predict", *(f"{index}.jpg" for index in range(40)), "--weights", weights) is None
    answers = [int(answer) for answer in re.findall(r"\.jpg: (\d) \(", capsys.readouterr().out)]
    net.load(weights)
    direct = learning.predict(net, data.test_images[:40]).argmax(axis=1)
    assert (direct == answers).mean() >= 0.9
    assert call("mnist", "predict", "7.jpg", "--stages", "--weights", weights) is None
    with Image.open("7_stages.png") as page:
        assert len(np.unique(page.convert("L"))) > 50


def test_the_data_sets_are_read(tmp_path, rng, monkeypatch):
    """MNIST's four files, gzipped, plain or fetched; an .npz, of which a fifth of every class is held out."""
    images, labels = rng.integers(0, 256, (100, 28, 28), dtype=np.uint8), np.repeat(np.arange(10, dtype=np.uint8), 10)
    (tmp_path / "gz").mkdir()
    for name in digits.MNIST_FILES:
        array = images if "images" in name else labels
        array = array[:60] if "train" in name else array[60:]
        header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
        (tmp_path / name).write_bytes(header + array.tobytes())
        (tmp_path / "gz" / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))
    monkeypatch.setattr(digits, "MNIST_URL", (tmp_path / "gz").as_uri())
    for source in (tmp_path, tmp_path / "gz", "download"):
        name, *arrays = digits.load_digits(source, tmp_path / "fetched")
        for array, expected in zip(arrays, (images[:60], labels[:60], images[60:], labels[60:]), strict=True):
            np.testing.assert_array_equal(array, expected)
    np.savez(tmp_path / "digits.npz", images=images, labels=labels)
    _, train_images, train_labels, test_images, test_labels = digits.load_digits(tmp_path / "digits.npz", None)
    assert np.bincount(train_labels).tolist() == [8] * 10 and np.bincount(test_labels).tolist() == [2] * 10
    known = {image.tobytes(): label for image, label in zip(images, labels)}
    for image, label in zip([*train_images, *test_images], [*train_labels, *test_labels]):
        assert known.pop(image.tobytes()) == label


def test_what_is_no_data_weights_or_digit_is_one_line(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, labels = rng.integers(0, 256, (100, 28, 28), dtype=np.uint8), np.arange(100) % 10
    np.savez("keys.npz", images=images)
    np.savez("float.npz", images=images / 255, labels=labels)
    np.savez("size.npz", images=images[:, :20], labels=labels)
    np.savez("letters.npz", images=images, labels=labels + 5)
    np.savez("pickled.npz", images=images, labels=labels.astype(object))
    (tmp_path / "text.npz").write_text("no zip file")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / f"{digits.MNIST_FILES[0]}.gz").write_bytes(gzip.compress(images.tobytes())[:-100])
    monkeypatch.setattr(digits, "MNIST_URL", (tmp_path / "nowhere").as_uri())
    for source in [path.name for path in tmp_path.iterdir()] + ["absent", ".", "download"]:
        assert_one_line(call("mnist", "train", "--data", source), f"mnist.py: cannot learn from {source}: ")
    network.Network().save("whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-1])
    network.Network(hidden=9).save("other.safetensors")
    Image.new("L", (50, 40), 200).save("empty.png")
    for weights in ("cut.safetensors", "other.safetensors", "absent.safetensors", "text.npz"):
        assert_one_line(call("mnist", "predict", "empty.png", "--weights", weights), weights, "mnist.py train")
    for picture, words in (("empty.png", "no digit found"), ("text.npz", "cannot read"), ("absent.png", "cannot read")):
        assert_one_line(call("mnist", "predict", picture, "--weights", "whole.safetensors"), picture, words)
    for epochs in ("-1", "0"):
        assert_one_line(call("mnist", "train", "--epochs", epochs), "at least 1 epoch")
    (tmp_path / "taken" / "weights.safetensors").mkdir(parents=True)
    assert_one_line(call("mnist", "train", "--epochs", "1", "--out", "taken"), "cannot write")


def test_only_a_network_of_the_same_shape_is_loaded(tmp_path):
    parameters = network.Network(seed=1).parameters
    save_file(parameters, tmp_path / "plain.safetensors")
    loaded = network.Network(seed=2)
    assert loaded.load(tmp_path / "plain.safetensors") == "no description"
    assert all((loaded.parameters[name] == array).all() for name, array in parameters.items())
    save_file(parameters | {"fc1.weight": parameters["fc1.weight"].T.copy()}, tmp_path / "turned.safetensors")
    with pytest.raises(ValueError, match=r"fc1\.weight has the shape"):
        loaded.load(tmp_path / "turned.safetensors")


def test_the_schedules_that_the_article_states():
    assert np.allclose([learning.cosine_schedule(step, 10) for step in (0, 5, 10)], [2e-3, 1e-3, 0])
    assert [mnist.default_epochs(count) for count in (1437, 8000, 60_000)] == [16, 12, 4]


def test_pictures_come_out_in_mnists_form():
    """MNIST's own digits, and scikit-learn's, which were brought to that form, hardly change a second time."""
    images = digits.load_digits(MNIST if MNIST.exists() else None, None).train_images[::20]
    again = np.stack([digits.centre_digit(digits.find_ink(image)) for image in images])
    difference = np.abs(again.astype(float) - images).mean(axis=(1, 2))
    assert np.median(difference) == 0 and difference.mean() <= 0.5  # a digit moved by one pixel is 10 or more away


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 255), st.integers(0, 255), seeds)
def test_any_picture_is_a_digit_or_refused(height, width, low, high, seed):
    low, high = sorted((low, high))
    gray = np.random.default_rng(seed).integers(low, high + 1, (height, width), dtype=np.uint8)
    if int(gray.max()) - int(gray.min()) >= 2 * digits.MINIMUM_CONTRAST:
        digit = digits.centre_digit(digits.find_ink(gray))
        assert digit.shape == (28, 28) and digit.dtype == np.uint8 and digit.max() == 255
    elif int(gray.max()) - int(gray.min()) < digits.MINIMUM_CONTRAST:
        with pytest.raises(ValueError, match="no digit"):
            digits.find_ink(gray)


def test_the_articles_code_is_the_sources():
    assert_articles_code_is_in(LESSON / "README.md", *LESSON.glob("*.py"))


@pytest.mark.exhaustive
@pytest.mark.parametrize("data", ["scikit-learn digits", "mnist_10k.npz"])
def test_a_whole_training_is_as_good_as_the_article_says(data, tmp_path, capsys):
    if data == MNIST.name and not MNIST.exists():
        pytest.skip(f"needs {MNIST}")
    article = (LESSON / "README.md").read_text("utf-8")
    stated = float(re.search(rf"\| {data} \| 0 \|.* ([\d.]+) % \|", article)[1])
    source = ["--data", MNIST] if data == MNIST.name else []
    assert call("mnist", "train", "--out", tmp_path, *source) is None
    assert float(re.search(r"mistakes, ([\d.]+)% right", capsys.readouterr().out)[1]) >= stated - 0.6
