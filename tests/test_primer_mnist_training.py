"""Lesson 6: whole trainings reach the accuracy that the article promises. Minutes each: `make test-all` runs them."""

import json

import numpy as np
import pytest

from tests.primer_mnist_support import REAL_DIGITS, lesson

pytestmark = pytest.mark.exhaustive


def accuracy(tmp_path, *arguments):
    assert lesson.mnist.main(["train", "--out", str(tmp_path), *arguments]) == 0
    (result,) = json.loads((tmp_path / "results.json").read_text())
    return result["test_accuracy"]


@pytest.mark.parametrize("seed", ["0", "1"])
def test_scikit_learns_digits_reach_98_percent(tmp_path, seed):
    assert accuracy(tmp_path, "--seed", seed) >= 0.98


def test_a_whole_training_repeats_bit_for_bit(tmp_path):
    files = []
    for name in ("first", "second"):
        accuracy(tmp_path / name, "--epochs", "2")
        files.append((tmp_path / name / "weights.npz").read_bytes())
    assert files[0] == files[1]


def test_mnists_digits_reach_97_and_a_half_percent(tmp_path):
    """With 8,000 real digits where there are some; otherwise scikit-learn's, halved, which are harder than whole."""
    if REAL_DIGITS.exists():
        assert accuracy(tmp_path, "--data", str(REAL_DIGITS)) >= 0.975
    else:
        images, labels = lesson.data.sklearn_digits()
        np.savez(tmp_path / "half.npz", images=images[::2], labels=labels[::2])
        assert accuracy(tmp_path / "out", "--data", str(tmp_path / "half.npz")) >= 0.95
