"""Lesson 2: the three ways against each other and against cv2.blur."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.primer_support import assert_close, load, pictures

lesson = load("2_mean_blur")
TYPES = {"constant": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE, "reflect": cv2.BORDER_REFLECT,
         "reflect_101": cv2.BORDER_REFLECT_101, "wrap": cv2.BORDER_WRAP}
sides = st.integers(1, 12)
images = st.one_of(pictures([np.uint8, np.uint16, np.int16, np.float32, np.float64]),
                   pictures([np.uint8, np.uint16, np.int16, np.float32, np.float64], channels=3))


@st.composite
def windows(draw):
    """A window's (height, width) and an anchor inside it."""
    height, width = draw(sides), draw(sides)
    return (height, width), (draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1)))


def opencv_blur(image, size, border, anchor):
    if border != "wrap":
        return cv2.blur(image, size[::-1], anchor=anchor[::-1], borderType=TYPES[border]).reshape(image.shape)
    wrapped = cv2.copyMakeBorder(image, 12, 12, 12, 12, cv2.BORDER_WRAP)
    return cv2.blur(wrapped, size[::-1], anchor=anchor[::-1])[12:-12, 12:-12].reshape(image.shape)


@given(images, windows(), st.sampled_from(sorted(TYPES)))
def test_three_ways_agree_and_equal_opencv(image, window, border):
    size, anchor = window
    direct = lesson.blur_direct(image, size, border, anchor)
    # the sums of whole numbers are exact; running sums of floats in 0..1 lose a few units of float64's rounding
    tolerance = 0 if image.dtype.kind in "iu" else 1e-6
    assert_close(lesson.blur_separable(image, size, border, anchor), direct, tolerance)
    assert_close(lesson.blur_integral(image, size, border, anchor), direct, tolerance)
    expected = opencv_blur(image, size, border, anchor)
    assert_close(direct, expected, 1 if image.dtype.kind in "iu" else 1e-5)


@given(images, sides, sides)
def test_the_default_anchor_and_border_are_opencvs(image, height, width):
    expected = cv2.blur(image, (width, height)).reshape(image.shape)
    assert_close(lesson.blur_integral(image, (height, width)), expected,
                 1 if image.dtype.kind in "iu" else 1e-5)


@given(pictures([np.int32]), sides)
def test_int32_equals_opencv_where_opencv_does_not_overflow(image, side):
    image = image // 2**11
    assert_close(lesson.blur_integral(image, (side, side)), cv2.blur(image, (side, side)), 1)


@given(images, st.sampled_from(sorted(TYPES)))
def test_a_window_of_one_pixel_changes_nothing(image, border):
    for blur in lesson.METHODS.values():
        assert_close(blur(image, (1, 1), border), image, 0 if image.dtype.kind in "iu" else 1e-6)


@given(images, windows(), st.sampled_from(["replicate", "reflect", "reflect_101", "wrap"]))
def test_a_constant_picture_stays_as_it_is(image, window, border):
    image = np.broadcast_to(image[:1, :1], image.shape)
    size, anchor = window
    for blur in lesson.METHODS.values():
        assert_close(blur(image, size, border, anchor), image, 0 if image.dtype.kind in "iu" else 1e-6)


@given(pictures([np.uint8, np.float32, np.int16]))
def test_the_integral_image_is_opencvs(image):
    wide = image.astype(np.float64)
    ours = lesson.integral_image(wide)
    expected = cv2.integral(image if image.dtype != np.int16 else wide, sdepth=cv2.CV_64F)
    assert_close(ours, expected, 1e-6)


@pytest.mark.parametrize("blur", lesson.METHODS.values(), ids=lesson.METHODS)
@pytest.mark.parametrize("bad", [{"size": (0, 3)}, {"size": (3, -1)}, {"size": (3, 3), "border": "mirror"},
                                 {"size": (3, 3), "anchor": (3, 0)}, {"size": (3, 3), "anchor": (-1, 0)}])
def test_refuses_windows_and_borders_that_do_not_exist(blur, bad):
    with pytest.raises(ValueError, match="expected"):
        blur(np.zeros((4, 4), np.uint8), **bad)


def test_opencv_refuses_to_wrap_whole_numbers():
    """The article says so; if a release of OpenCV learns it, the oracle above can be widened."""
    with pytest.raises(cv2.error):
        cv2.blur(np.zeros((4, 4), np.uint8), (3, 3), borderType=cv2.BORDER_WRAP)
