"""Lesson 2: every pixel becomes the mean of the pixels around it.

One result, three ways to it: all pixels of the window (direct), rows then columns (separable), and four look-ups in a
table of running sums (integral), whose cost no longer depends on the size of the window.

    python mean_blur.py [PICTURE] [--out FILE] [--stages] [--size N] [--border MODE] [--method NAME]
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1]))  # where lesson.py is
import lesson

# How the picture goes on beyond its edge, for a row a b c d: OpenCV's name -> NumPy's.
BORDERS = {
    "constant": "constant",  # 0 0 | a b c d | 0 0
    "replicate": "edge",  # a a | a b c d | d d
    "reflect": "symmetric",  # b a | a b c d | d c
    "reflect_101": "reflect",  # c b | a b c d | c b
    "wrap": "wrap",  # c d | a b c d | a b
}


def blur_direct(
    image: NDArray, size: tuple[int, int], border: str = "reflect_101", anchor: tuple[int, int] | None = None
) -> NDArray:
    """The definition: add up the window, a shifted picture for each of its pixels.

    image: (height, width) or (height, width, channels); any whole-number dtype, float32 or float64.
    size: (height, width) of the window. anchor: the window's pixel (y, x) that lies on the result's pixel; default
    the middle, or for even sizes the pixel after it. Returns the same shape and dtype, whole numbers rounded.
    """
    height, width = image.shape[:2]
    padded = pad(image, size, border, anchor)
    total = 0
    for y in range(size[0]):
        for x in range(size[1]):
            total = total + padded[y : y + height, x : x + width]
    return mean(total, size, image.dtype)


def blur_separable(
    image: NDArray, size: tuple[int, int], border: str = "reflect_101", anchor: tuple[int, int] | None = None
) -> NDArray:
    """The same in two passes: the sums along each row, then the sums of those along each column."""
    height, width = image.shape[:2]
    padded = pad(image, size, border, anchor)
    rows = sum(padded[:, x : x + width] for x in range(size[1]))
    total = sum(rows[y : y + height] for y in range(size[0]))
    return mean(total, size, image.dtype)


def blur_integral(
    image: NDArray, size: tuple[int, int], border: str = "reflect_101", anchor: tuple[int, int] | None = None
) -> NDArray:
    """The same from the table of running sums (Crow 1984): any window is four of its entries."""
    table = integral_image(pad(image, size, border, anchor))
    y, x = size
    total = table[y:, x:] - table[:-y, x:] - table[y:, :-x] + table[:-y, :-x]
    return mean(total, size, image.dtype)


def integral_image(image: NDArray) -> NDArray:
    """table[y, x] = the sum of all pixels above row y and left of column x; one row and column larger than `image`."""
    table = np.zeros((image.shape[0] + 1, image.shape[1] + 1, *image.shape[2:]), image.dtype)
    table[1:, 1:] = image.cumsum(axis=0).cumsum(axis=1)
    return table


def pad(image: NDArray, size: tuple[int, int], border: str, anchor: tuple[int, int] | None = None) -> NDArray:
    """`image` with what the windows need beyond its edge, widened so that sums fit: int64 or float64."""
    if border not in BORDERS:
        raise ValueError(f"expected one of the borders {', '.join(BORDERS)}, got {border}")
    if min(size) < 1:
        raise ValueError(f"expected a window of at least 1 x 1 pixels, got {size[0]} x {size[1]}")
    y, x = anchor or (size[0] // 2, size[1] // 2)
    if not (0 <= y < size[0] and 0 <= x < size[1]):
        raise ValueError(f"expected an anchor inside the window, got {(y, x)} in {size[0]} x {size[1]}")
    margins = [(y, size[0] - 1 - y), (x, size[1] - 1 - x)] + [(0, 0)] * (image.ndim - 2)
    wide = image.astype(np.float64 if image.dtype.kind == "f" else np.int64)
    return np.pad(wide, margins, mode=BORDERS[border])


def mean(total: NDArray, size: tuple[int, int], dtype: np.dtype) -> NDArray:
    """The window's sum over its area, in the picture's dtype."""
    quotient = total / (size[0] * size[1])
    return (quotient if dtype.kind == "f" else np.rint(quotient)).astype(dtype)


METHODS = {"direct": blur_direct, "separable": blur_separable, "integral": blur_integral}


def stages(picture: NDArray, result: NDArray, size: int, border: str) -> list[tuple]:
    """What `--stages` shows."""
    brightness = picture.mean(axis=2)
    return [
        ("picture", picture),
        ("rows only", blur_separable(picture, (1, size), border)),
        ("rows, then columns: the result", result),
        ("what the blur took away", brightness - result.mean(axis=2)),
        ("integral image of the brightness", integral_image(brightness)),
        ("a large window and a border of zeros", blur_integral(picture, (61, 61), "constant")),
    ]


def main() -> None:
    parser = lesson.parser(__doc__, sample="chelsea")
    parser.add_argument("--size", type=int, default=9, metavar="N", help="N x N pixels; default: %(default)s")
    parser.add_argument("--border", choices=BORDERS, default="reflect_101", help="default: %(default)s")
    parser.add_argument("--method", choices=METHODS, help="default: all three, one after the other")
    arguments = parser.parse_args()
    picture = lesson.read(arguments)
    size, border = arguments.size, arguments.border
    height, width = picture.shape[:2]
    if size > 100 + 2 * max(height, width):  # the border alone would fill the memory
        raise ValueError(f"--size {size} is too large for a picture of {width} x {height}")
    for name in [arguments.method] if arguments.method else METHODS:
        result = lesson.race(
            name,
            lambda blur=METHODS[name]: blur(picture, (size, size), border),
            lambda: opencv_blur(picture, size, border),
        )
    lesson.write(arguments, result, lambda: stages(picture, result, size, border))


def opencv_blur(picture: NDArray, size: int, border: str) -> NDArray:
    """The oracle. Its blur refuses to wrap whole numbers round, so there it gets a picture with the border on."""
    if border != "wrap":
        return cv2.blur(picture, (size, size), borderType=getattr(cv2, f"BORDER_{border.upper()}"))
    wrapped = cv2.copyMakeBorder(picture, size, size, size, size, cv2.BORDER_WRAP)
    return cv2.blur(wrapped, (size, size))[size:-size, size:-size]


if __name__ == "__main__":
    lesson.run(main)
