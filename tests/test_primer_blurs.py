"""Lessons 2 and 3 against cv2.blur, cv2.integral, cv2.getGaussianKernel and cv2.GaussianBlur."""

import cv2
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.primer_support import assert_close, load, pictures

mean_blur, gaussian_blur = load("mean_blur"), load("gaussian_blur")
DTYPES = np.uint8, np.uint16, np.int16, np.float32, np.float64
BORDERS = {name: getattr(cv2, f"BORDER_{name.upper()}") for name in mean_blur.BORDERS}
borders = st.sampled_from(sorted(BORDERS))
images = st.one_of(pictures(*DTYPES), pictures(*DTYPES, channels=3))
sides = st.integers(1, 12)
odd = st.integers(0, 8).map(lambda half: 2 * half + 1)
sigmas = st.one_of(st.just(0.0), st.floats(0.1, 20))


@st.composite
def windows(draw):
    """A window's (height, width), and an anchor inside it or None."""
    height, width = draw(sides), draw(sides)
    inside = st.tuples(st.integers(0, height - 1), st.integers(0, width - 1))
    return (height, width), draw(st.one_of(st.none(), inside))


@given(images, windows(), borders)
def test_three_means_agree_and_equal_opencv(image, window, border):
    size, anchor = window
    assume(image.dtype != np.uint8 or size not in [(1, 2), (2, 1)])  # OpenCV 5.0.0 makes 0 of two 255s
    direct = mean_blur.blur_direct(image, size, border, anchor)
    # the sums of whole numbers are exact; running sums of floats in 0..1 lose a few units of float64's rounding
    exact = image.dtype.kind in "iu"
    assert_close(mean_blur.blur_separable(image, size, border, anchor), direct, 0 if exact else 1e-6)
    assert_close(mean_blur.blur_integral(image, size, border, anchor), direct, 0 if exact else 1e-6)
    at = anchor[::-1] if anchor else (-1, -1)
    if border == "wrap":  # OpenCV's blur refuses it
        wrapped = cv2.copyMakeBorder(image, 12, 12, 12, 12, cv2.BORDER_WRAP)
        expected = cv2.blur(wrapped, size[::-1], anchor=at)[12:-12, 12:-12]
    else:
        expected = cv2.blur(image, size[::-1], anchor=at, borderType=BORDERS[border])
    assert_close(direct, expected.reshape(image.shape), 1 if exact else 1e-5)


@given(odd, sigmas)
def test_the_gaussian_kernel_is_opencvs(size, sigma):
    assert_close(gaussian_blur.gaussian_kernel(size, sigma), cv2.getGaussianKernel(size, sigma).ravel(), 1e-12)


@given(st.floats(0.05, 30), st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]))
def test_the_size_is_the_one_opencv_chooses(sigma, dtype):
    """OpenCV does not tell it; but only with the same size is the blur of a white pixel the same everywhere."""
    size = gaussian_blur.size_for(sigma, np.dtype(dtype))
    image = np.zeros((1, 3 * size + 8), dtype)
    image[0, image.shape[1] // 2] = np.iinfo(dtype).max if np.dtype(dtype).kind != "f" else 1
    np.testing.assert_array_equal(cv2.GaussianBlur(image, (0, 0), sigma), cv2.GaussianBlur(image, (size, size), sigma))


@given(images, odd, sigmas, borders)
def test_the_gaussian_blur_equals_opencv(image, size, sigma, border):
    assume(border != "wrap" or image.dtype in (np.uint8, np.uint16))  # OpenCV refuses the others
    expected = cv2.GaussianBlur(image, (size, size), sigma, borderType=BORDERS[border]).reshape(image.shape)
    tolerance = {"u": 0, "i": 1, "f": 1e-5}[image.dtype.kind]
    assert_close(gaussian_blur.gaussian_blur(image, size, sigma, border), expected, tolerance)


@given(pictures(np.float64), odd, sigmas, borders)
def test_two_passes_equal_the_square_kernel(image, size, sigma, border):
    two = gaussian_blur.gaussian_blur(image, size, sigma, border)
    assert_close(two, gaussian_blur.gaussian_blur_2d(image, size, sigma, border), 1e-12)
