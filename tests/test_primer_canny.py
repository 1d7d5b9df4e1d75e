"""Lesson 4 against cv2.Canny: every pixel equal."""

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st

from tests.primer_support import assert_close, load, pictures

canny = load("canny")
thresholds = st.one_of(st.integers(0, 600), st.floats(0, 40000))
grays = st.one_of(
    pictures(np.uint8),
    pictures(np.uint8).map(lambda picture: picture // 64 * 64),  # few levels: plateaus and ties
    pictures(np.uint8).map(lambda picture: canny.smooth(picture, 1.0)),  # long connected edges
)


@given(grays, thresholds, thresholds, st.booleans())
def test_every_pixel_equals_opencv(gray, low, high, l2):
    for ours, (x, y) in zip(canny.sobel(gray), [(1, 0), (0, 1)]):
        assert_close(ours, cv2.Sobel(gray, cv2.CV_16S, x, y, borderType=cv2.BORDER_REPLICATE), 0)
    assert_close(canny.canny(gray, low, high, l2), cv2.Canny(gray, low, high, L2gradient=l2), 0)


@pytest.mark.parametrize("l2", [False, True], ids=["l1", "l2"])
@pytest.mark.parametrize("name", ["camera", "coins", "page"])
def test_every_pixel_of_real_pictures_equals_opencv(name, l2):
    gray = getattr(skimage.data, name)()
    for low, high in [(0, 0), (33.3, 77.7), (10, 400)]:
        edges = canny.canny(gray, low, high, l2)
        assert 0 < np.count_nonzero(edges) < edges.size / 2
        assert_close(edges, cv2.Canny(gray, low, high, L2gradient=l2), 0)


def test_hysteresis_follows_one_long_weak_line():
    """A zigzag of weak pixels, strong at one end only: found whole, or not at all without the strong pixel."""
    candidates = np.full((101, 101), canny.WEAK)
    candidates[1::4, :-1] = candidates[3::4, 1:] = 0
    candidates[0, 0] = canny.STRONG
    np.testing.assert_array_equal(canny.hysteresis(candidates), candidates > 0)
    candidates[0, 0] = canny.WEAK
    assert not canny.hysteresis(candidates).any()


@given(pictures(np.uint8), st.floats(0.3, 5))
def test_smoothing_is_opencvs_gaussian(gray, sigma):
    reach = round(3 * sigma + 0.5)
    expected = cv2.GaussianBlur(gray.astype(np.float64), (2 * reach + 1, 2 * reach + 1), sigma)
    assert np.abs(canny.smooth(gray, sigma) - expected).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(canny.smooth(gray, 0), gray)
