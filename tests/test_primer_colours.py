"""Lessons 0 and 1 against cv2.cvtColor; lesson 1 both ways."""

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.primer_support import assert_close, load, pictures

gray, rgb = load("gray"), load("rgb")


@given(pictures(np.uint8, np.uint16, np.float32, channels=3))
def test_gray_equals_opencv(picture):
    tolerance = 1e-6 if picture.dtype == np.float32 else 0
    assert_close(gray.to_gray(picture), cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), tolerance)


@given(pictures(np.uint8, np.uint16, channels=3))
def test_fixed_point_is_the_formula(picture):
    exact = gray.gray_float(picture.astype(np.float64))
    # half a level for the rounding, the rest for the weights' own, 2^-16 each
    assert np.abs(gray.to_gray(picture) - exact).max() <= 0.5 + 3 * np.iinfo(picture.dtype).max / 2**16


def assert_hsv_close(actual, expected, hue, rest):
    """`hue` and `rest` are the tolerances; hues are compared round the circle."""
    turn = 180 if actual.dtype == np.uint8 else 360
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    assert actual[..., 0].min() >= 0 and actual[..., 0].max() <= (179 if turn == 180 else 360)
    error = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    assert np.isfinite(error).all()
    assert np.minimum(error[..., 0], turn - error[..., 0]).max() <= hue
    assert error[..., 1:].max() <= rest


@given(pictures(np.uint8, np.uint16, np.float32, channels=3))
def test_bgr_and_yuv_equal_opencv_both_ways(picture):
    tolerance = {"uint8": 1, "uint16": 2, "float32": 1e-5}[picture.dtype.name]
    assert_close(rgb.swap_red_blue(picture), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), 0)
    assert_close(rgb.rgb_to_yuv(picture), cv2.cvtColor(picture, cv2.COLOR_RGB2YUV), tolerance)
    assert_close(rgb.yuv_to_rgb(picture), cv2.cvtColor(picture, cv2.COLOR_YUV2RGB), tolerance)


@given(pictures(np.uint8, channels=3))
def test_hsv_equals_opencv_both_ways_in_uint8(picture):
    assert_hsv_close(rgb.rgb_to_hsv(picture), cv2.cvtColor(picture, cv2.COLOR_RGB2HSV), 1, 1)
    assert_close(rgb.hsv_to_rgb(picture), cv2.cvtColor(picture, cv2.COLOR_HSV2RGB), 1)


@given(pictures(np.float32, channels=3), st.integers(0, 2))
def test_hsv_equals_opencv_both_ways_in_float(picture, turns):
    expected = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
    colourful = np.ptp(picture, axis=2) > 1e-3  # below, the hue is the ratio of two rounding errors
    actual = rgb.rgb_to_hsv(picture)
    actual[~colourful, 0] = expected[~colourful, 0]
    assert_hsv_close(actual, expected, 0.05, 1e-4)
    expected[..., 0] += 360 * turns
    back = rgb.hsv_to_rgb(expected)
    assert_close(back, cv2.cvtColor(expected, cv2.COLOR_HSV2RGB), 1e-4)
    expected[..., 0] -= 360 * (turns + 1)  # OpenCV 5.0 returns numbers below 0 for negative hues
    assert_close(rgb.hsv_to_rgb(expected), back, 1e-4)


@given(pictures(np.float64, channels=3))
def test_round_trips_in_float64(picture):
    assert_close(rgb.hsv_to_rgb(rgb.rgb_to_hsv(picture)), picture, 1e-5)
    assert_close(rgb.yuv_to_rgb(rgb.rgb_to_yuv(picture)), picture, 1e-3)  # its coefficients have three digits


@given(pictures(np.uint8, channels=3), st.integers(-3, 3))
def test_three_turns_of_120_degrees_move_the_channels_round(picture, thirds):
    for turns in 0, 10**7:
        assert_close(rgb.turn_hue(picture, 120 * thirds + 360 * turns), np.roll(picture, thirds, axis=2), 0)
