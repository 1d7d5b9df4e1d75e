"""Lesson 5: the threshold that best tells objects from background (Otsu 1979).

Count how often each gray level occurs; try every threshold; keep the one whose two classes lie furthest apart.
The result is white above the threshold and black up to it.

    python otsu.py [PICTURE] [--out FILE] [--stages]
"""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1]))  # where lesson.py is
import lesson

EPSILON = np.finfo(np.float32).eps  # a class with a smaller share of the pixels counts as empty, as in OpenCV


def histogram(gray: NDArray) -> NDArray:
    """How many pixels have each level: (256,) for uint8, (65536,) for uint16."""
    if gray.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"expected uint8 or uint16, got {gray.dtype}")
    return np.bincount(gray.ravel(), minlength=np.iinfo(gray.dtype).max + 1)


def between_class_variance(counts: NDArray) -> NDArray:
    """For every threshold t, how far apart the classes "level <= t" and "level > t" are: Otsu's sigma_B^2.

    counts: (levels,), a histogram. Returns (levels,) float64; 0 where a class is empty.
    """
    levels = np.arange(len(counts))
    pixels, brightness = counts.cumsum(), (counts * levels).cumsum()
    q1 = pixels / pixels[-1]  # the first class's share of the pixels
    q2 = 1 - q1
    both = np.minimum(q1, q2) >= EPSILON
    mean1 = brightness[both] / pixels[both]
    mean2 = (brightness[-1] - brightness[both]) / (pixels[-1] - pixels[both])
    variance = np.zeros(len(counts))
    variance[both] = q1[both] * q2[both] * (mean1 - mean2) ** 2
    return variance


def otsu_threshold(gray: NDArray) -> int:
    """The threshold with the largest between-class variance, the lowest of them if several are equal.

    gray: uint8 or uint16, not empty. A picture of one level has no two classes: 0, as in OpenCV.
    """
    if gray.size == 0:
        raise ValueError("expected a picture of at least one pixel")
    return int(between_class_variance(histogram(gray)).argmax())


def binary(gray: NDArray, threshold: int) -> NDArray:
    """White where the picture is lighter than the threshold, else black; same shape and dtype."""
    return np.where(gray > threshold, np.iinfo(gray.dtype).max, 0).astype(gray.dtype)


def draw_histogram(counts: NDArray, threshold: int) -> Callable:
    """A panel for `--stages`: the two classes in two colours."""

    def panel(axes):
        levels = np.arange(len(counts))
        for wanted, colour, label in [
            (levels <= threshold, "tab:gray", "background"),
            (levels > threshold, "tab:orange", "objects"),
        ]:
            axes.bar(levels[wanted], counts[wanted], width=1, color=colour, label=label)
        axes.legend()
        axes.set_xlabel("level")
        axes.set_ylabel("pixels")

    return panel


def draw_variance(counts: NDArray, threshold: int) -> Callable:
    """A panel for `--stages`: what is maximised, and where."""

    def panel(axes):
        axes.plot(between_class_variance(counts))
        axes.axvline(threshold, color="tab:red", label=f"threshold {threshold}")
        axes.legend()
        axes.set_xlabel("threshold")

    return panel


def stages(gray: NDArray, mask: NDArray, threshold: int) -> list[tuple]:
    """What `--stages` shows."""
    counts = histogram(gray)
    return [
        ("picture", gray),
        ("histogram", draw_histogram(counts, threshold)),
        ("between-class variance", draw_variance(counts, threshold)),
        ("objects: the result", mask),
        ("the picture where it is an object", np.where(mask, gray, 0).astype(np.uint8)),
        ("the picture where it is background", np.where(mask, 255, gray).astype(np.uint8)),
    ]


def main() -> None:
    arguments = lesson.parser(__doc__, sample="coins").parse_args()
    gray = lesson.read(arguments, "L")
    threshold = lesson.race(
        "threshold", lambda: otsu_threshold(gray), lambda: cv2.threshold(gray, 0, 255, cv2.THRESH_OTSU)[0]
    )
    mask = binary(gray, threshold)
    print(f"threshold {threshold}: {np.count_nonzero(mask) / mask.size:.1%} of the picture is lighter")
    lesson.write(arguments, mask, lambda: stages(gray, mask, threshold))


if __name__ == "__main__":
    lesson.run(main)
