"""Lesson 6: the data sets, and pictures of digits in MNIST's form."""

import gzip
import io
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.primer_mnist_support import bundled_digits, distance, draw_digit, lesson, mnist_digits, seeds, to_network

network, digit, data, mnist = lesson.network, lesson.digit, lesson.data, lesson.mnist


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
    digits = bundled_digits()
    images = np.concatenate([digits.train_images, digits.test_images])
    assert images.shape == (1797, 28, 28) and images.dtype == np.uint8 and (images.max(axis=(1, 2)) == 255).all()
    assert len(digits.test_images) == 360
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


# --- pictures of digits ----------------------------------------------------------------------------------------------


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


def test_unreadable_and_empty_pictures_are_one_line(tmp_path, capsys):
    weights = str(tmp_path / "weights.npz")
    network.Network(3).save(weights)
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
        status = mnist.main(["predict", str(tmp_path / name), "--weights", weights])
        error = capsys.readouterr().err
        assert status == 1 and error.count("\n") == 1 and reason in error and str(tmp_path) in error
    names = [str(tmp_path / name) for name in ("empty.png", "whole.png")]
    assert mnist.main(["predict", *names, "--weights", weights]) == 1
    assert "whole.png: " in capsys.readouterr().out  # one bad picture does not hide the others
