"""Lesson 5 against cv2.threshold(..., THRESH_OTSU)."""

import cv2
import numpy as np
import skimage.data
import skimage.measure
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.primer_support import assert_close, load, pictures

otsu = load("otsu")


def opencv(gray, ipp=True):
    """OpenCV's threshold and picture, with Intel's library if this build has it, or by OpenCV's own code."""
    cv2.ipp.setUseIPP(ipp)
    try:
        threshold, mask = cv2.threshold(gray, 0, int(np.iinfo(gray.dtype).max), cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    finally:
        cv2.ipp.setUseIPP(True)
    return int(threshold), mask.reshape(gray.shape)


def assert_equals_opencv(gray, ipp=True):
    threshold, mask = opencv(gray, ipp)
    assert otsu.otsu_threshold(gray) == threshold
    assert_close(otsu.binary(gray, threshold), mask, 0)


def tied(gray):
    """Whether two thresholds that split the pixels differently are equally good, up to rounding."""
    counts = otsu.histogram(gray)
    variance = otsu.between_class_variance(counts)
    best = variance >= variance.max() * (1 - 1e-9)
    return variance.max() > 0 and len(np.unique(counts.cumsum()[best])) > 1


few_levels = pictures(np.uint8).map(lambda gray: gray // 100 * 100)  # between two, all thresholds are equally good


@given(st.one_of(pictures(np.uint8), few_levels, pictures(np.uint16, max_side=12)), st.booleans())
def test_the_threshold_and_the_picture_are_opencvs(gray, ipp):
    assume(not tied(gray))
    assert_equals_opencv(gray, ipp)


@given(pictures(np.uint8).map(lambda gray: np.concatenate([gray, 255 - gray])), st.booleans())
def test_among_different_splits_that_tie_opencvs_is_no_better(gray, ipp):
    """Symmetric histograms: rounding decides, differently with and without Intel's library. Ours is as good."""
    variance = otsu.between_class_variance(otsu.histogram(gray))
    ours, theirs = variance[otsu.otsu_threshold(gray)], variance[opencv(gray, ipp)[0]]
    assert np.isfinite(variance).all() and ours >= theirs >= ours * (1 - 1e-9)


@given(pictures(np.uint8))
def test_between_and_within_class_variance_add_up_to_the_whole(gray):
    """Otsu's equation 11, which the article explains: the two parts' sum is the picture's variance."""
    values = gray.astype(np.float64).ravel()
    between = otsu.between_class_variance(otsu.histogram(gray))
    for t in np.flatnonzero(between)[::16]:
        low, high = values[values <= t], values[values > t]
        within = (low.size * low.var() + high.size * high.var()) / values.size
        assert abs(within + between[t] - values.var()) <= 1e-9 * max(values.var(), 1)


def test_a_share_too_small_for_opencv_counts_as_empty():
    gray = np.full((3000, 3000), 50, np.uint8)
    gray[0, 0] = 200  # one pixel in nine million
    assert otsu.otsu_threshold(gray) == opencv(gray, ipp=False)[0] == 0


def test_the_coins_are_counted_once_the_light_is_even():
    """The article's first exercise: the blurs of lessons 2 and 3, then Otsu, find the 24 coins."""
    smooth = load("gaussian_blur").gaussian_blur(skimage.data.coins(), 13, 2)
    even = smooth.astype(int) - load("mean_blur").blur_integral(smooth, (101, 101)) + 128
    even = np.clip(even, 0, 255).astype(np.uint8)
    assert skimage.measure.label(otsu.binary(even, otsu.otsu_threshold(even))).max() == 24
