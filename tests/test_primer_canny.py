"""Lesson 4 against cv2.Canny: every pixel equal."""

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st

from tests.primer_support import assert_close, load, pictures

lesson = load("4_canny")
thresholds = st.one_of(st.integers(0, 600), st.floats(0, 40000))
grays = st.one_of(
    pictures([np.uint8]),
    pictures([np.uint8]).map(lambda picture: picture // 64 * 64),  # few levels: plateaus and ties
    pictures([np.uint8]).map(lambda picture: lesson.smooth(picture, 1.0)),  # long connected edges
)


@given(grays, thresholds, thresholds, st.booleans())
def test_every_pixel_equals_opencv(gray, low, high, l2):
    np.testing.assert_array_equal(lesson.canny(gray, low, high, l2), cv2.Canny(gray, low, high, L2gradient=l2))


@pytest.mark.parametrize("l2", [False, True], ids=["l1", "l2"])
@pytest.mark.parametrize("name", ["camera", "coins", "page", "brick", "moon", "text"])
def test_every_pixel_of_real_pictures_equals_opencv(name, l2):
    gray = getattr(skimage.data, name)()
    for low, high in [(0, 0), (40, 120), (33.3, 77.7), (10, 400)]:
        edges = lesson.canny(gray, low, high, l2)
        assert edges.any() or (low, high) != (0, 0)
        np.testing.assert_array_equal(edges, cv2.Canny(gray, low, high, L2gradient=l2))


@given(grays)
def test_the_gradients_are_opencvs(gray):
    for ours, (x, y) in zip(lesson.sobel(gray), [(1, 0), (0, 1)]):
        assert_close(ours, cv2.Sobel(gray, cv2.CV_16S, x, y, borderType=cv2.BORDER_REPLICATE), 0)


@given(pictures([np.int16]), st.integers(0, 2**32 - 1), thresholds, thresholds, st.booleans())
def test_int16_gradients_of_ones_own_equal_opencv(dx, seed, low, high, l2):
    dx = (dx * 0.82).astype(np.int16)  # beyond 27145, OpenCV's tangent in 32 bits overflows
    dy = np.random.default_rng(seed).permutation(dx.ravel()).reshape(dx.shape)
    for scale in (1, 40000):
        np.testing.assert_array_equal(lesson.edges_of_gradients(dx, dy, scale * low, scale * high, l2),
                                      cv2.Canny(dx, dy, scale * low, scale * high, L2gradient=l2))


def test_a_constant_picture_has_no_edges():
    for level in (0, 7, 255):
        assert not lesson.canny(np.full((9, 13), level, np.uint8), 0, 0).any()


def test_hysteresis_follows_one_long_weak_line():
    """A spiral of weak pixels, strong at one end only: found whole, or not at all without the strong pixel."""
    side = 101
    candidates = np.zeros((side, side), int)
    y, x, down, right = 0, 0, 0, 1
    candidates[y, x] = lesson.STRONG
    steps = [side - 1] * 3 + [n for n in range(side - 3, 1, -2) for _ in (0, 1)]
    for step in steps:
        for _ in range(step):
            y, x = y + down, x + right
            candidates[y, x] = lesson.WEAK
        down, right = right, -down
    np.testing.assert_array_equal(lesson.hysteresis(candidates), candidates > 0)
    candidates[0, 0] = lesson.WEAK
    assert not lesson.hysteresis(candidates).any()


@given(pictures([np.uint8]), st.floats(0.3, 5))
def test_smoothing_is_opencvs_gaussian(gray, sigma):
    reach = round(3 * sigma + 0.5)
    expected = cv2.GaussianBlur(gray.astype(np.float64), (2 * reach + 1, 2 * reach + 1), sigma)
    assert np.abs(lesson.smooth(gray, sigma) - expected).max() <= 0.5 + 1e-9


@given(pictures([np.uint8]))
def test_sigma_zero_smooths_nothing(gray):
    np.testing.assert_array_equal(lesson.smooth(gray, 0), gray)


@pytest.mark.parametrize("gray", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32), np.zeros(4, np.uint8)])
def test_refuses_other_shapes_and_dtypes(gray):
    with pytest.raises(ValueError, match="expected uint8"):
        lesson.canny(gray, 10, 20)


@pytest.mark.parametrize("low, high", [(-1, 10), (np.nan, 10), (10, np.nan), (10, np.inf)])
def test_refuses_thresholds_that_are_none(low, high):
    with pytest.raises(ValueError, match="expected two thresholds"):
        lesson.canny(np.zeros((4, 4), np.uint8), low, high)


@pytest.mark.parametrize("sigma", [-1, np.nan, np.inf, 1000])
def test_refuses_a_sigma_out_of_range(sigma):
    with pytest.raises(ValueError, match="expected a sigma"):
        lesson.smooth(np.zeros((4, 4), np.uint8), sigma)
