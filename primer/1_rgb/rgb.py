"""Lesson 1: three numbers a pixel, and other ways to choose the three.

RGB for screens, BGR for OpenCV, YUV for brightness apart from colour, HSV for colour as people name it.
The result is the picture with every hue turned by --turn degrees: to HSV and back.

    python rgb.py [PICTURE] [--out FILE] [--stages] [--turn DEGREES]
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1]))  # where lesson.py is
import lesson

EPSILON = np.finfo(np.float32).eps  # OpenCV's: keeps black and gray pixels from dividing by zero


def swap_red_blue(picture: NDArray) -> NDArray:
    """RGB to BGR, and by the same step BGR to RGB. No number changes, only the order."""
    return picture[..., ::-1]


def rgb_to_yuv(picture: NDArray) -> NDArray:
    """Brightness Y, and two colour differences: U towards blue, V towards red (ITU-R BT.601).

    picture: (height, width, 3) uint8, uint16, float32 or float64; the result has the same shape and dtype.
    U and V can be negative: half of the range is added (128, 32768 or 0.5).
    """
    r, g, b = _planes(picture)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    u = 0.492 * (b - y)
    v = 0.877 * (r - y)
    half = _half(picture.dtype)
    return _pack(picture.dtype, y, u + half, v + half)


def yuv_to_rgb(picture: NDArray) -> NDArray:
    """The way back; the coefficients are rounded to three digits, as in OpenCV."""
    y, u, v = _planes(picture)
    u, v = u - _half(picture.dtype), v - _half(picture.dtype)
    return _pack(picture.dtype, y + 1.140 * v, y - 0.395 * u - 0.581 * v, y + 2.032 * u)


def rgb_to_hsv(picture: NDArray) -> NDArray:
    """Hue, saturation, value (Smith 1978).

    picture: (height, width, 3), uint8, or float32 or float64 with values from 0 to 1.
    Returns the same shape and dtype: H in degrees, 0..360, S and V from 0 to 1. As uint8, like OpenCV's, H is
    halved, 0..179, so that it fits, and S and V are 0..255.
    """
    r, g, b = (plane / _top(picture.dtype) for plane in _planes(picture))
    value = np.maximum(np.maximum(r, g), b)
    chroma = value - np.minimum(np.minimum(r, g), b)
    safe = chroma + EPSILON
    sixth = np.where(value == r, (g - b) / safe, np.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    hue = 60 * sixth % 360
    saturation = chroma / (value + EPSILON)
    if picture.dtype == np.uint8:
        return _pack(picture.dtype, np.rint(hue / 2) % 180, 255 * saturation, 255 * value)
    return _pack(picture.dtype, hue, saturation, value)


def hsv_to_rgb(picture: NDArray) -> NDArray:
    """The way back, for the same dtypes and units. Any hue is taken modulo a full turn."""
    top = _top(picture.dtype)
    hue, saturation, value = _planes(picture)
    sixth = hue / (30 if picture.dtype == np.uint8 else 60)
    saturation, value = saturation / top, value / top

    def plane(n):
        k = (n + sixth) % 6
        return top * (value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1))

    return _pack(picture.dtype, plane(5), plane(3), plane(1))


def turn_hue(picture: NDArray, degrees: float) -> NDArray:
    """Every colour moved round the colour circle by `degrees`; gray, saturation and value stay.

    picture: (height, width, 3) uint8. In floating point in between, so that nothing is rounded twice.
    """
    hsv = rgb_to_hsv(picture / np.float32(255))
    hsv[..., 0] += degrees % 360
    return np.rint(255 * hsv_to_rgb(hsv)).astype(np.uint8)


def _planes(picture):
    """The three planes, widened so that sums and differences fit."""
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"expected a picture of shape (height, width, 3), got {picture.shape}")
    wide = picture.dtype if picture.dtype.kind == "f" else np.float32
    return (picture[..., channel].astype(wide) for channel in range(3))


def _top(dtype):
    """White, in HSV's dtypes."""
    if dtype not in (np.uint8, np.float32, np.float64):
        raise ValueError(f"expected uint8, float32 or float64, got {dtype}")
    return 255 if dtype == np.uint8 else 1


def _half(dtype):
    """The zero of U and V."""
    if dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise ValueError(f"expected uint8, uint16, float32 or float64, got {dtype}")
    return 0.5 if dtype.kind == "f" else (np.iinfo(dtype).max + 1) // 2


def _pack(dtype, *planes):
    """Three planes as one picture; whole-number dtypes are rounded, and cut to their range."""
    picture = np.stack(planes, axis=-1)
    if dtype.kind == "u":
        picture = np.clip(np.rint(picture), 0, np.iinfo(dtype).max)
    return picture.astype(dtype)


def hue_distance(a: NDArray, b: NDArray) -> NDArray:
    """The distance of two uint8 HSV pictures: hue 179 and hue 0 are neighbours on the circle."""
    distance = np.abs(a - b)
    distance[..., 0] = np.minimum(distance[..., 0], 180 - distance[..., 0])
    return distance


def stages(picture: NDArray, turned: NDArray) -> list[tuple]:
    """What `--stages` shows: RGB, YUV and HSV in one row each."""
    yuv, hsv = rgb_to_yuv(picture), rgb_to_hsv(picture)
    pure = hsv.copy()
    pure[..., 1:] = 255
    return [
        ("picture", picture),
        *zip("RGB", np.moveaxis(picture, 2, 0)),
        ("BGR taken for RGB", swap_red_blue(picture)),
        *zip("YUV", np.moveaxis(yuv, 2, 0)),
        ("hues turned: the result", turned),
        ("H, at full S and V", hsv_to_rgb(pure)),
        ("S", hsv[..., 1]),
        ("V", hsv[..., 2]),
    ]


def main() -> None:
    parser = lesson.parser(__doc__, sample="astronaut")
    parser.add_argument("--turn", type=float, default=120, metavar="DEGREES", help="default: %(default)s")
    arguments = parser.parse_args()
    if not np.isfinite(arguments.turn):
        raise ValueError(f"--turn must be a number of degrees, got {arguments.turn}")
    picture = lesson.read(arguments)
    yuv = lesson.race("RGB to YUV", lambda: rgb_to_yuv(picture), lambda: cv2.cvtColor(picture, cv2.COLOR_RGB2YUV))
    lesson.race("YUV to RGB", lambda: yuv_to_rgb(yuv), lambda: cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB))
    hsv = lesson.race(
        "RGB to HSV", lambda: rgb_to_hsv(picture), lambda: cv2.cvtColor(picture, cv2.COLOR_RGB2HSV), hue_distance
    )
    lesson.race("HSV to RGB", lambda: hsv_to_rgb(hsv), lambda: cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    turned = turn_hue(picture, arguments.turn)
    lesson.write(arguments, turned, lambda: stages(picture, turned), columns=4)


if __name__ == "__main__":
    lesson.run(main)
