"""Lesson 4: the edges of a picture as lines one pixel wide (Canny 1986).

Smooth the noise away; the gradient says how fast the brightness changes; keep only its ridges; strong ridges are edges,
and so are the weak ones that hang on to a strong one.

    python canny.py [PICTURE] [--out FILE] [--stages] [--sigma S] [--low N] [--high N] [--l2]
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1]))  # where lesson.py is
import lesson

SHIFT = 15
TAN_22_5 = round(np.tan(np.pi / 8) * (1 << SHIFT))  # 13573, in OpenCV's fixed point
WEAK, STRONG = 1, 2


def smooth(gray: NDArray, sigma: float) -> NDArray:
    """Lesson 3's Gaussian blur in floating point. uint8 to uint8, (height, width); sigma 0 changes nothing."""
    if not 0 <= sigma <= 100:
        raise ValueError(f"expected a sigma from 0 to 100, got {sigma}")
    if sigma == 0:
        return gray
    height, width = gray.shape
    reach = round(3 * sigma + 0.5)
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    p = np.pad(gray.astype(np.float64), reach, mode="reflect")
    rows = sum(weight * p[:, i : i + width] for i, weight in enumerate(kernel))
    return np.rint(sum(weight * rows[i : i + height] for i, weight in enumerate(kernel))).astype(np.uint8)


def canny(gray: NDArray, low: float, high: float, l2: bool = False) -> NDArray:
    """Edges of a gray picture, the same pixels as cv2.Canny(gray, low, high, L2gradient=l2).

    gray: (height, width) uint8. low, high: thresholds on the gradient's length, in OpenCV's Sobel units.
    Returns (height, width) uint8, 255 on an edge and 0 elsewhere.
    """
    if gray.ndim != 2 or gray.dtype != np.uint8:
        raise ValueError(f"expected uint8 of shape (height, width), got {gray.dtype} of shape {gray.shape}")
    dx, dy = (gradient.astype(np.int64) for gradient in sobel(gray))
    length = magnitude(dx, dy, l2)
    candidates = classify(length, ridge(length, dx, dy), low, high, l2)
    return np.where(hysteresis(candidates), 255, 0).astype(np.uint8)


def sobel(gray: NDArray) -> tuple[NDArray, NDArray]:
    """The gradient (Sobel 1968): differences across, smoothed with 1 2 1 along. Two (height, width) int16 arrays."""
    p = np.pad(gray.astype(np.int16), 1, mode="edge")
    across = p[:, 2:] - p[:, :-2]
    down = p[2:] - p[:-2]
    dx = across[:-2] + 2 * across[1:-1] + across[2:]
    dy = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    return dx, dy


def magnitude(dx: NDArray, dy: NDArray, l2: bool) -> NDArray:
    """How fast the brightness changes: |dx| + |dy|, or, for l2, the square of the true length."""
    return dx**2 + dy**2 if l2 else abs(dx) + abs(dy)


def ridge(length: NDArray, dx: NDArray, dy: NDArray) -> NDArray:
    """Where the gradient is longer than at both neighbours in its own direction, rounded to one of four.

    On a plateau of equal values, `>` on one side and `>=` on the other keep one pixel of two.
    """
    x, y = abs(dx), abs(dy) << SHIFT
    horizontal = y < x * TAN_22_5
    vertical = y > x * TAN_22_5 + (x << SHIFT + 1)  # tan(67.5) = tan(22.5) + 2
    falling = (dx ^ dy) < 0  # signs differ: the gradient points up to the right, or down to the left
    p = np.pad(length, 1)
    height, width = length.shape

    def neighbour(down, right):
        return p[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    return np.select(
        [horizontal, vertical, falling],
        [
            (length > neighbour(0, -1)) & (length >= neighbour(0, 1)),
            (length > neighbour(-1, 0)) & (length >= neighbour(1, 0)),
            (length > neighbour(-1, 1)) & (length > neighbour(1, -1)),
        ],
        (length > neighbour(-1, -1)) & (length > neighbour(1, 1)),
    )


def classify(length: NDArray, is_ridge: NDArray, low: float, high: float, l2: bool) -> NDArray:
    """STRONG above the high threshold, WEAK above the low one, 0 below or off the ridge."""
    low, high = sorted((low, high))
    if not 0 <= low <= high < np.inf:
        raise ValueError(f"expected two finite thresholds of at least 0, got {low} and {high}")
    if l2:  # the lengths are squares; OpenCV caps the thresholds so that theirs fit into 31 bits
        low, high = min(low, 32767) ** 2, min(high, 32767) ** 2
    return np.where(is_ridge & (length > low), np.where(length > high, STRONG, WEAK), 0)


def hysteresis(candidates: NDArray) -> NDArray:
    """Strong pixels, and every weak one joined to a strong one through candidates, also diagonally.

    candidates: (height, width) of 0, WEAK, STRONG. Returns (height, width) bool. All pixels reached in the last step
    are looked at together; the neighbours that they reach first are the next step's.
    """
    padded = np.pad(candidates, 1)
    width = padded.shape[1]
    around = np.array([-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1])
    waiting = (padded == WEAK).ravel()
    edge = (padded == STRONG).ravel()
    front = np.flatnonzero(edge)
    while front.size:
        reached = (front[:, None] + around).ravel()
        front = np.unique(reached[waiting[reached]])
        waiting[front] = False
        edge[front] = True
    return edge.reshape(padded.shape)[1:-1, 1:-1]


def stages(picture: NDArray, gray: NDArray, edges: NDArray, low: float, high: float, l2: bool) -> list[tuple]:
    """What `--stages` shows. Lengths are drawn as roots, so that the faint ones can be seen."""
    dx, dy = (gradient.astype(np.int64) for gradient in sobel(gray))
    length = magnitude(dx, dy, l2)
    is_ridge = ridge(length, dx, dy)
    thin = np.where(is_ridge, length, 0)
    candidates = classify(length, is_ridge, low, high, l2)
    root = 0.25 if l2 else 0.5
    return [
        ("picture", picture),
        ("smoothed", gray),
        ("dx: brighter to the right", dx),
        ("dy: brighter downwards", dy),
        ("length of the gradient", length**root),
        ("its ridges", thin**root),
        ("weak gray, strong white", np.array([0, 110, 255], np.uint8)[candidates]),
        ("hysteresis: the result", edges),
    ]


def main() -> None:
    parser = lesson.parser(__doc__, sample="camera")
    parser.add_argument("--sigma", type=float, default=1.4, help="of the smoothing, 0: none; default: %(default)s")
    parser.add_argument("--low", type=float, default=40, metavar="N", help="weak edges; default: %(default)s")
    parser.add_argument("--high", type=float, default=120, metavar="N", help="strong edges; default: %(default)s")
    parser.add_argument("--l2", action="store_true", help="the gradient's true length instead of |dx| + |dy|")
    arguments = parser.parse_args()
    picture = lesson.read(arguments, "L")
    gray = smooth(picture, arguments.sigma)
    low, high, l2 = arguments.low, arguments.high, arguments.l2
    edges = lesson.race("edges", lambda: canny(gray, low, high, l2), lambda: cv2.Canny(gray, low, high, L2gradient=l2))
    lesson.write(arguments, edges, lambda: stages(picture, gray, edges, low, high, l2), columns=4)


if __name__ == "__main__":
    lesson.run(main)
