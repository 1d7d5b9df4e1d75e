"""Lesson 0: a colour picture turned gray.

One weight for each colour, because the eye does not see them equally bright (ITU-R BT.601):

    Y = 0.299 R + 0.587 G + 0.114 B

    python gray.py [PICTURE] [--out FILE] [--stages]
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1]))  # where lesson.py is
import lesson

RED, GREEN, BLUE = 0.299, 0.587, 0.114
FRACTION_BITS = 15


def to_gray(picture: NDArray) -> NDArray:
    """Gray of a colour picture.

    picture: (height, width, 3), channels red, green, blue; uint8, uint16, float32 or float64.
    Returns (height, width) of the same dtype. Raises ValueError for any other shape or dtype.
    """
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"expected a picture of shape (height, width, 3), got {picture.shape}")
    if picture.dtype in (np.float32, np.float64):
        return gray_float(picture)
    if picture.dtype in (np.uint8, np.uint16):
        return gray_integer(picture)
    raise ValueError(f"expected uint8, uint16, float32 or float64, got {picture.dtype}")


def gray_float(picture: NDArray) -> NDArray:
    """The formula as it stands; the weights add up to 1, so white stays white."""
    r, g, b = picture[..., 0], picture[..., 1], picture[..., 2]
    return RED * r + GREEN * g + BLUE * b


def gray_integer(picture: NDArray) -> NDArray:
    """The same in whole numbers: weights in units of 1 / 2^15, the sum rounded to the nearest level.

    These are OpenCV's whole numbers, so the result equals its result in every pixel.
    """
    r, g, b = (picture[..., channel].astype(np.uint32) for channel in range(3))
    one = 1 << FRACTION_BITS
    red, green = round(RED * one), round(GREEN * one)
    blue = one - red - green  # 3735; 0.114 * 2^15 rounds to 3736, and uint16 white would overflow to 1
    return ((red * r + green * g + blue * b + one // 2) >> FRACTION_BITS).astype(picture.dtype)


def stages(picture: NDArray, gray: NDArray) -> list[tuple]:
    """What `--stages` shows."""
    mean = picture.mean(axis=2).astype(np.uint8)
    return [
        ("picture", picture),
        ("red", picture[..., 0]),
        ("green", picture[..., 1]),
        ("blue", picture[..., 2]),
        ("plain mean", mean),
        ("weighted: the result", gray),
    ]


def main() -> None:
    arguments = lesson.parser(__doc__, sample="coffee").parse_args()
    picture = lesson.read(arguments)
    gray = lesson.race("to gray", lambda: to_gray(picture), lambda: cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
    lesson.write(arguments, gray, lambda: stages(picture, gray))


if __name__ == "__main__":
    lesson.run(main)
