"""Lesson 0 against cv2.cvtColor."""

import cv2
import numpy as np
import pytest
from hypothesis import given

from tests.primer_support import assert_close, load, pictures

gray = load("0_gray")


@given(pictures([np.uint8, np.uint16], channels=3))
def test_integers_equal_opencv(picture):
    assert_close(gray.to_gray(picture), cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 0)


def test_every_colour_of_a_grid_equals_opencv():
    levels = np.arange(0, 256, 5, dtype=np.uint8)  # 52 levels, so 140,608 colours
    picture = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 52, 3)
    assert_close(gray.to_gray(picture), cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 0)


@given(pictures([np.float32], channels=3))
def test_floats_equal_opencv(picture):
    assert_close(gray.to_gray(picture), cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 1e-6)


@given(pictures([np.uint8], channels=3))
def test_formula_and_fixed_point_agree(picture):
    exact = gray.gray_float(picture.astype(np.float64))
    # half a level for the rounding, the rest for the weights' own, 2^-16 each
    assert np.abs(gray.to_gray(picture) - exact).max() <= 0.5 + 3 * 255 / 2**16


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_gray_stays_gray(dtype):
    top = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    levels = np.linspace(0, top, 64).astype(dtype)
    assert_close(gray.to_gray(np.stack([levels] * 3, axis=-1)[None]), levels[None], 0 if top > 1 else 1e-6)


@pytest.mark.parametrize("picture", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8),
                                     np.zeros((4, 4, 3), np.int16), np.zeros((4, 4, 3), bool)])
def test_refuses_other_shapes_and_dtypes(picture):
    with pytest.raises(ValueError, match="expected"):
        gray.to_gray(picture)
