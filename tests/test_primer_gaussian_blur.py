"""Lesson 3 against cv2.getGaussianKernel and cv2.GaussianBlur."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.primer_support import assert_close, load, pictures

lesson = load("3_gaussian_blur")
DTYPES = [np.uint8, np.uint16, np.int16, np.float32, np.float64]
TYPES = {"constant": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE, "reflect": cv2.BORDER_REFLECT,
         "reflect_101": cv2.BORDER_REFLECT_101, "wrap": cv2.BORDER_WRAP}
odd = st.integers(0, 8).map(lambda half: 2 * half + 1)
sigmas = st.one_of(st.just(0.0), st.floats(0.1, 20))
images = st.one_of(pictures(DTYPES), pictures(DTYPES, channels=3))


@given(odd, sigmas)
def test_the_kernel_is_opencvs(size, sigma):
    kernel = lesson.gaussian_kernel(size, sigma)
    assert_close(kernel, cv2.getGaussianKernel(size, sigma).ravel(), 1e-12)
    assert abs(kernel.sum() - 1) < 1e-12


@given(st.floats(0.05, 30), st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]))
def test_the_size_is_the_one_opencv_chooses(sigma, dtype):
    """OpenCV does not tell it; but only with the same size is the blur of a white pixel the same everywhere."""
    size = lesson.size_for(sigma, np.dtype(dtype))
    image = np.zeros((1, 3 * size + 8), dtype)
    image[0, image.shape[1] // 2] = np.iinfo(dtype).max if np.dtype(dtype).kind != "f" else 1
    chosen = cv2.GaussianBlur(image, (0, 0), sigma)
    np.testing.assert_array_equal(chosen, cv2.GaussianBlur(image, (size, size), sigma))


@given(images, odd, sigmas, st.sampled_from(sorted(TYPES)))
def test_the_blur_equals_opencv(image, size, sigma, border):
    assume(border != "wrap" or image.dtype in (np.uint8, np.uint16))  # OpenCV refuses the others
    expected = cv2.GaussianBlur(image, (size, size), sigma, borderType=TYPES[border]).reshape(image.shape)
    tolerance = {"u": 0, "i": 1, "f": 1e-5}[image.dtype.kind]
    assert_close(lesson.gaussian_blur(image, size, sigma, border), expected, tolerance)


@given(images, odd, sigmas, st.sampled_from(sorted(TYPES)))
def test_two_passes_equal_the_square_kernel(image, size, sigma, border):
    two = lesson.gaussian_blur(image, size, sigma, border)
    one = lesson.gaussian_blur_2d(image, size, sigma, border)
    tolerance = {"u": 1, "i": 1, "f": 1e-6}[image.dtype.kind]
    if image.dtype.kind == "u":  # in either pass, at most white times what the weights were rounded by
        bits = lesson.FRACTION_BITS[image.dtype]
        kernel = lesson.gaussian_kernel(size, sigma)
        rounding = np.abs(lesson.fixed_point(kernel, bits) / (1 << bits) - kernel).sum()
        tolerance += 2 * rounding * np.iinfo(image.dtype).max
    assert_close(two, one, tolerance)


@given(odd, sigmas)
def test_the_square_kernel_has_rank_one(size, sigma):
    assert np.linalg.matrix_rank(lesson.kernel_2d(size, sigma), tol=1e-12) == 1


@given(odd, sigmas, st.sampled_from([8, 16]))
def test_fixed_point_keeps_the_sum_and_the_shape(size, sigma, bits):
    kernel = lesson.gaussian_kernel(size, sigma)
    units = lesson.fixed_point(kernel, bits)
    assert units.sum() == 1 << bits
    np.testing.assert_array_equal(units, units[::-1])
    off_centre = np.arange(size) != size // 2
    assert np.abs(units - kernel * (1 << bits))[off_centre].max(initial=0) <= 1


@given(images, odd, sigmas, st.sampled_from(["replicate", "reflect", "reflect_101", "wrap"]))
def test_a_constant_picture_stays_as_it_is(image, size, sigma, border):
    image = np.broadcast_to(image[:1, :1], image.shape)
    assert_close(lesson.gaussian_blur(image, size, sigma, border), image, 1e-6 if image.dtype.kind == "f" else 0)


@given(st.floats(1, 3), st.floats(1, 3))
def test_two_blurs_are_one_with_the_variances_added(first, second):
    """What the article's second exercise finds."""
    image = np.zeros((81, 81))
    image[40, 40] = 1
    twice = lesson.gaussian_blur(lesson.gaussian_blur(image, 31, first), 31, second)
    assert_close(twice, lesson.gaussian_blur(image, 31, float(np.hypot(first, second))), 1e-4)


@pytest.mark.parametrize("size, sigma", [(0, 1), (-3, 1), (4, 1), (3, -1), (3, np.nan), (3, np.inf)])
def test_refuses_kernels_that_do_not_exist(size, sigma):
    with pytest.raises(ValueError, match="expected"):
        lesson.gaussian_blur(np.zeros((4, 4), np.uint8), size, sigma)


@pytest.mark.parametrize("sigma", [0, -1, np.nan, np.inf])
def test_no_size_for_a_sigma_that_is_not_above_zero(sigma):
    with pytest.raises(ValueError, match="expected"):
        lesson.size_for(sigma, np.dtype(np.uint8))


def test_refuses_an_unknown_border():
    with pytest.raises(ValueError, match="expected one of the borders"):
        lesson.gaussian_blur(np.zeros((4, 4), np.uint8), 3, 1, "mirror")
