"""Lesson 0 against cv2.cvtColor."""

import cv2
import numpy as np
from hypothesis import given

from tests.primer_support import assert_close, load, pictures

gray = load("gray")


@given(pictures(np.uint8, np.uint16, np.float32, channels=3))
def test_gray_equals_opencv(picture):
    tolerance = 1e-6 if picture.dtype == np.float32 else 0
    assert_close(gray.to_gray(picture), cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), tolerance)


@given(pictures(np.uint8, np.uint16, channels=3))
def test_fixed_point_is_the_formula(picture):
    exact = gray.gray_float(picture.astype(np.float64))
    # half a level for the rounding, the rest for the weights' own, 2^-16 each
    assert np.abs(gray.to_gray(picture) - exact).max() <= 0.5 + 3 * np.iinfo(picture.dtype).max / 2**16
