"""Lesson 5 against cv2.threshold(..., THRESH_OTSU)."""

import cv2
import numpy as np
import pytest
import skimage.data
import skimage.measure
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.primer_support import load, pictures

lesson = load("5_otsu")


def opencv(gray, ipp=True):
    """OpenCV's threshold and picture, with Intel's library if this build has it, or by OpenCV's own code."""
    cv2.ipp.setUseIPP(ipp)
    try:
        threshold, mask = cv2.threshold(gray, 0, int(np.iinfo(gray.dtype).max), cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    finally:
        cv2.ipp.setUseIPP(True)
    return int(threshold), mask.reshape(gray.shape)


def tied(gray):
    """Whether two thresholds that split the pixels differently are equally good, up to rounding."""
    counts = lesson.histogram(gray)
    variance = lesson.between_class_variance(counts)
    best = variance >= variance.max() * (1 - 1e-9)
    return variance.max() > 0 and len(np.unique(counts.cumsum()[best])) > 1


@given(pictures([np.uint8]), st.booleans())
def test_the_threshold_and_the_picture_are_opencvs(gray, ipp):
    assume(not tied(gray))
    threshold, mask = opencv(gray, ipp)
    assert lesson.otsu_threshold(gray) == threshold
    np.testing.assert_array_equal(lesson.binary(gray, threshold), mask)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 200)), min_size=1, max_size=3), st.booleans())
def test_a_gap_in_the_histogram_gives_its_lower_end(levels, ipp):
    """Between two modes all thresholds are equally good: the same plateau, the same end of it as OpenCV's."""
    gray = np.repeat([level for level, _ in levels], [count for _, count in levels]).astype(np.uint8)[None]
    assume(not tied(gray))
    assert lesson.otsu_threshold(gray) == opencv(gray, ipp)[0]


@given(pictures([np.uint8]).map(lambda gray: np.concatenate([gray, 255 - gray])), st.booleans())
def test_among_different_splits_that_tie_opencvs_is_no_better(gray, ipp):
    """Symmetric histograms: rounding decides, differently with and without Intel's library. Ours is as good."""
    variance = lesson.between_class_variance(lesson.histogram(gray))
    ours, theirs = variance[lesson.otsu_threshold(gray)], variance[opencv(gray, ipp)[0]]
    assert np.isfinite(variance).all() and ours >= theirs >= ours * (1 - 1e-9)


@given(pictures([np.uint16], max_side=12))
def test_uint16_as_well(gray):
    assume(not tied(gray))
    threshold, mask = opencv(gray)
    assert lesson.otsu_threshold(gray) == threshold
    np.testing.assert_array_equal(lesson.binary(gray, threshold), mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_a_constant_picture_has_threshold_zero(level, dtype):
    gray = np.full((5, 7), level, dtype)
    assert lesson.otsu_threshold(gray) == opencv(gray)[0] == 0


@pytest.mark.parametrize("name", ["coins", "camera", "page", "text", "moon", "cell"])
def test_real_pictures(name):
    gray = getattr(skimage.data, name)()
    threshold, mask = opencv(gray)
    assert lesson.otsu_threshold(gray) == threshold > 0
    np.testing.assert_array_equal(lesson.binary(gray, threshold), mask)


@given(pictures([np.uint8]))
def test_between_and_within_class_variance_add_up_to_the_whole(gray):
    """Otsu's equation 11, which the article explains: the two parts' sum is the picture's variance."""
    values = gray.astype(np.float64).ravel()
    between = lesson.between_class_variance(lesson.histogram(gray))
    for t in np.flatnonzero(between)[::16]:
        low, high = values[values <= t], values[values > t]
        within = (low.size * low.var() + high.size * high.var()) / values.size
        assert abs(within + between[t] - values.var()) <= 1e-9 * max(values.var(), 1)


def test_a_share_too_small_for_opencv_counts_as_empty():
    gray = np.full((3000, 3000), 50, np.uint8)
    gray[0, 0] = 200  # one pixel in nine million
    assert lesson.otsu_threshold(gray) == opencv(gray, ipp=False)[0] == 0


@pytest.mark.parametrize("gray", [np.zeros((4, 4), np.float32), np.zeros((4, 4), np.int16), np.zeros((0, 4), np.uint8)])
def test_refuses_other_dtypes_and_no_pixels(gray):
    with pytest.raises(ValueError, match="expected"):
        lesson.otsu_threshold(gray)


def test_the_coins_are_counted_once_the_light_is_even():
    """The article's first exercise: the blurs of lessons 2 and 3, then Otsu, find the 24 coins."""
    mean_blur, gaussian_blur = load("2_mean_blur").blur_integral, load("3_gaussian_blur").gaussian_blur
    smooth = gaussian_blur(skimage.data.coins(), 13, 2)
    even = np.clip(smooth.astype(int) - mean_blur(smooth, (101, 101)) + 128, 0, 255).astype(np.uint8)
    mask = lesson.binary(even, lesson.otsu_threshold(even))
    assert skimage.measure.label(mask).max() == 24
