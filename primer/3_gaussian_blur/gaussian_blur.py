"""Lesson 3: a blur that counts near pixels more than far ones, after the bell curve of Gauss.

The kernel in one and in two dimensions, why they give the same blur, and how its size follows from sigma.

    python gaussian_blur.py [PICTURE] [--out FILE] [--stages] [--sigma S] [--size N] [--border MODE] [--square]
"""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1]))  # where lesson.py is
import lesson

# How the picture goes on beyond its edge, as in lesson 2: OpenCV's name -> NumPy's.
BORDERS = {
    "constant": "constant",
    "replicate": "edge",
    "reflect": "symmetric",
    "reflect_101": "reflect",
    "wrap": "wrap",
}

# OpenCV's kernels for sigma 0, in whole parts of a power of two; Pascal's triangle up to size 5.
SMALL_KERNELS = {
    1: [1],
    3: [1, 2, 1],
    5: [1, 4, 6, 4, 1],
    7: [2, 7, 14, 18, 14, 7, 2],
    9: [4, 13, 30, 51, 60, 51, 30, 13, 4],
}
FRACTION_BITS = {np.dtype(np.uint8): 8, np.dtype(np.uint16): 16}  # OpenCV's fixed point


def gaussian_kernel(size: int, sigma: float = 0) -> NDArray:
    """The bell curve at `size` points, a pixel apart, scaled to the sum 1: (size,) float64.

    size: odd. sigma: the width, in pixels; 0 chooses one for the size, as OpenCV does.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"expected an odd size of at least 1, got {size}")
    if not 0 <= sigma < np.inf:
        raise ValueError(f"expected a sigma of at least 0, got {sigma}")
    if sigma == 0 and size in SMALL_KERNELS:
        return np.array(SMALL_KERNELS[size]) / sum(SMALL_KERNELS[size])
    sigma = sigma or 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    x = np.arange(size) - size // 2
    bell = np.exp(-(x**2) / (2 * sigma**2))
    return bell / bell.sum()


def size_for(sigma: float, dtype: np.dtype) -> int:
    """How many points are enough: out to 3 sigma on either side in uint8, to 4 sigma in finer dtypes."""
    if not 0 < sigma < np.inf:
        raise ValueError(f"expected a sigma above 0, got {sigma}")
    reach = 3 if dtype == np.uint8 else 4
    return round(2 * reach * sigma + 1) | 1  # | 1 makes an even number odd


def gaussian_blur(image: NDArray, size: int, sigma: float = 0, border: str = "reflect_101") -> NDArray:
    """Blur in two passes, along the rows and then along the columns.

    image: (height, width) or (height, width, channels); uint8, uint16, int16, float32 or float64.
    Returns the same shape and dtype. uint8 and uint16 are summed in whole numbers, as in OpenCV.
    """
    kernel = gaussian_kernel(size, sigma)
    bits = FRACTION_BITS.get(image.dtype)
    if bits:
        kernel = fixed_point(kernel, bits)
    rows = convolve_1d(pad(image, size, border), kernel, axis=1)
    total = convolve_1d(rows, kernel, axis=0)
    if bits:
        total = (total + (1 << 2 * bits - 1)) >> 2 * bits  # both passes' units at once, to the nearest level
    return to_dtype(total, image.dtype)


def convolve_1d(image: NDArray, kernel: NDArray, axis: int) -> NDArray:
    """The weighted sum of `len(kernel)` neighbours along one axis, which gets shorter by `len(kernel) - 1`."""
    image = np.moveaxis(image, axis, 0)
    length = len(image) - len(kernel) + 1
    total = sum(weight * image[i : i + length] for i, weight in enumerate(kernel))
    return np.moveaxis(total, 0, axis)


def gaussian_blur_2d(image: NDArray, size: int, sigma: float = 0, border: str = "reflect_101") -> NDArray:
    """The same blur by its definition: one pass with the square kernel, size * size products a pixel. In float64."""
    kernel = kernel_2d(size, sigma)
    height, width = image.shape[:2]
    padded = pad(image, size, border)
    total = 0
    for y in range(size):
        for x in range(size):
            total = total + kernel[y, x] * padded[y : y + height, x : x + width]
    return to_dtype(total, image.dtype)


def kernel_2d(size: int, sigma: float = 0) -> NDArray:
    """The bell in two dimensions: (size, size), each entry the product of two entries of the curve."""
    kernel = gaussian_kernel(size, sigma)
    return np.outer(kernel, kernel)


def fixed_point(kernel: NDArray, bits: int) -> NDArray:
    """The kernel in whole units of 1 / 2^bits whose sum is exactly 2^bits.

    Each rounding error is carried on to the next weight, and the middle one takes what is left.
    """
    units = np.zeros(len(kernel), np.int64)
    middle, error = len(kernel) // 2, 0.0
    for i in range(middle):
        wanted = kernel[i] * (1 << bits) + error
        units[i] = units[-1 - i] = round(wanted)
        error = wanted - units[i]
    units[middle] = (1 << bits) - units.sum()
    return units


def pad(image: NDArray, size: int, border: str) -> NDArray:
    """`image` with half a kernel more on each side, widened so that sums fit."""
    if border not in BORDERS:
        raise ValueError(f"expected one of the borders {', '.join(BORDERS)}, got {border}")
    margins = [(size // 2, size // 2)] * 2 + [(0, 0)] * (image.ndim - 2)
    wide = image.astype(np.float64 if image.dtype.kind == "f" else np.int64)
    return np.pad(wide, margins, mode=BORDERS[border])


def to_dtype(total: NDArray, dtype: np.dtype) -> NDArray:
    return (total if dtype.kind == "f" else np.rint(total)).astype(dtype)


def draw_curve(kernel: NDArray) -> Callable:
    """A panel for `--stages`: the one-dimensional kernel as bars."""

    def panel(axes):
        axes.bar(np.arange(len(kernel)) - len(kernel) // 2, kernel, width=0.8, color="tab:blue")
        axes.set_xlabel("distance in pixels")

    return panel


def stages(picture: NDArray, result: NDArray, size: int, sigma: float, border: str) -> list[tuple]:
    """What `--stages` shows."""
    kernel = gaussian_kernel(size, sigma)
    rows = convolve_1d(pad(picture, size, border), kernel, axis=1)
    return [
        ("picture", picture),
        (f"the kernel, {size} points", draw_curve(kernel)),
        (f"the kernel in 2-D, {size} x {size}", kernel_2d(size, sigma)),
        ("rows only", to_dtype(rows[size // 2 : size // 2 + len(picture)], picture.dtype)),
        ("rows, then columns: the result", result),
        ("what the blur took away", picture.mean(axis=2) - result.mean(axis=2)),
    ]


def main() -> None:
    parser = lesson.parser(__doc__, sample="chelsea")
    parser.add_argument("--sigma", type=float, default=3.0, help="in pixels; 0: by the size; default: %(default)s")
    parser.add_argument("--size", type=int, metavar="N", help="points of the kernel, odd; default: by sigma")
    parser.add_argument("--border", choices=BORDERS, default="reflect_101", help="default: %(default)s")
    parser.add_argument("--square", action="store_true", help="also time the blur in one pass, N x N weights")
    arguments = parser.parse_args()
    picture = lesson.read(arguments)
    sigma, border = arguments.sigma, arguments.border
    size = size_for(sigma, picture.dtype) if arguments.size is None else arguments.size
    height, width = picture.shape[:2]
    if size > 100 + 2 * max(height, width):  # the border alone would fill the memory
        raise ValueError(f"a kernel of {size} points is too large for a picture of {width} x {height}")

    def opencvs():
        return cv2.GaussianBlur(picture, (size, size), sigma, borderType=getattr(cv2, f"BORDER_{border.upper()}"))

    if arguments.square:
        lesson.race(f"{size} x {size} weights", lambda: gaussian_blur_2d(picture, size, sigma, border), opencvs)
    result = lesson.race(f"{size} + {size} weights", lambda: gaussian_blur(picture, size, sigma, border), opencvs)
    lesson.write(arguments, result, lambda: stages(picture, result, size, sigma, border))


if __name__ == "__main__":
    lesson.run(main)
