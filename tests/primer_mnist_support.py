"""Shared by the tests of the primer's lesson 6: its modules, and pictures of digits."""

import functools
import sys
import types
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

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
    return lesson.digit.centre_digit(lesson.digit.find_ink(lesson.digit.to_gray(picture)))


def distance(one, other):
    """Mean difference of two 28x28 pictures, 0..255, where a centre rounded to the next pixel makes none."""
    one, other = one.astype(float), other.astype(float)
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return min(np.abs(np.roll(one, shift, (0, 1)) - other).mean() for shift in shifts)


@functools.cache
def bundled_digits():
    """scikit-learn's digits, split. Nobody writes to them."""
    return lesson.data.load_digits()


def mnist_digits():
    """Digits in MNIST's form, (n, 28, 28): real ones where there are some, scikit-learn's otherwise."""
    if REAL_DIGITS.exists():
        return np.load(REAL_DIGITS, allow_pickle=False)["images"][::50]
    return bundled_digits().train_images[::10]
