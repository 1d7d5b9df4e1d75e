"""How a convolution works: pixels, the sliding window, im2col, and four kernels chosen by hand at work."""

import matplotlib.pyplot as plt
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from common.plot_style import BLUE, FAINT, INK, ORANGE, PALE, RED, WIDTH, arrow, canvas, frame, grid, shade
from common.versions import ROOT, load_version

CAT = ROOT / "samples" / "cat.jpg"
EYE_ROW, EYE_COLUMN, EYE_SIZE = 96, 166, 6  # the highlight in the cat's eye

PICTURE = [[2, 1, 1, 8, 9], [1, 2, 1, 9, 8], [2, 1, 2, 8, 9], [1, 1, 2, 9, 9], [2, 2, 1, 8, 8]]
SOBEL = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]

# Name, kernel (3, 3, 3): rows, columns, and the factors of red, green and blue.
GRAY = np.full(3, 1 / 3)
KERNELS = {
    "mean of 9 pixels": np.full((3, 3, 1), 1 / 9) * GRAY,
    "left to right": np.array(SOBEL)[:, :, None] * GRAY,
    "top to bottom": np.array(SOBEL).T[:, :, None] * GRAY,
    "orange, not blue": np.full((3, 3, 1), 1 / 9) * np.array([1, 0, -1]),
}


def pixels():
    """A photograph, and 6 x 6 of its pixels with their numbers."""
    picture = np.asarray(Image.open(CAT))
    figure, (whole, detail) = plt.subplots(1, 2, figsize=(WIDTH, 3.5), width_ratios=(1.35, 1))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.91, bottom=0.02, wspace=0.04)
    whole.imshow(picture)
    whole.set_title("{} rows, {} columns, {} numbers a pixel".format(*picture.shape), loc="left", fontsize=10)
    frame(whole, EYE_COLUMN - 0.5, EYE_ROW + EYE_SIZE - 0.5, EYE_SIZE, EYE_SIZE, "white", linewidth=1.5)
    part = picture[EYE_ROW : EYE_ROW + EYE_SIZE, EYE_COLUMN : EYE_COLUMN + EYE_SIZE]
    detail.imshow(part)
    for row, column in np.ndindex(part.shape[:2]):
        ink = "black" if part[row, column].mean() > 128 else "white"
        text = "\n".join(map(str, part[row, column]))
        detail.text(column, row, text, ha="center", va="center", color=ink, size=7.5, linespacing=1.1)
    detail.set_title(f"from row {EYE_ROW}, column {EYE_COLUMN}: red, green, blue", loc="left", fontsize=10)
    for axes in (whole, detail):
        axes.axis("off")
    return figure


def convolve(picture, kernel, stride=1, padding=0):
    """Version 1's convolution of one channel with one kernel, rows of whole numbers."""
    conv2d = load_version("v1_loops").ops.conv2d
    x = [[[value] for value in row] for row in picture]
    out = conv2d(x, [[[[factor] for factor in row] for row in kernel]], stride, padding)
    return [[round(pixel[0]) for pixel in row] for row in out]


def sliding_window():
    """The window at one place, with its sum written out; below, stride 2 and padding 1."""
    figure, axes = canvas(21, 17.8)
    row, column = 1, 1
    axes.text(0.3, 17.2, "stride 1, no padding: 5×5 becomes 3×3", weight="bold")
    draw_convolution(axes, PICTURE, convolve(PICTURE, SOBEL), x=1.3, y=16.7, windows=[(row, column, ORANGE)], stride=1)
    window = np.array(PICTURE)[row : row + 3, column : column + 3].ravel()
    terms = [f"{value}·({f})" if f < 0 else f"{value}·{f}" for value, f in zip(window, np.ravel(SOBEL))]
    total = convolve(PICTURE, SOBEL)[row][column]
    axes.text(0.3, 10.3, f"{' + '.join(terms)} = {total}", size=9.5, color=INK)
    axes.text(0.3, 8.9, "stride 2, padding 1: 5×5, with a border of zeros, becomes 3×3", weight="bold")
    padded = np.pad(PICTURE, 1).tolist()
    windows = [(1, 0, ORANGE), (1, 1, BLUE)]
    draw_convolution(axes, padded, convolve(PICTURE, SOBEL, 2, 1), x=0.3, y=8.3, windows=windows, stride=2, border=1)
    return figure


def draw_convolution(axes, picture, out, x, y, windows, stride, border=0):
    """Picture * kernel = out, with each window of `windows` (output row, column, colour) framed in both."""
    size = len(picture)
    inside = range(border, size - border)
    colours = [["white" if r in inside and c in inside else PALE for c in range(size)] for r in range(size)]
    out_colours = [["white"] * len(out[0]) for _ in out]
    for row, column, colour in windows:
        out_colours[row][column] = shade(colour)
        for r, c in np.ndindex(3, 3):
            colours[row * stride + r][column * stride + c] = shade(colour)
    grid(axes, picture, x, y, colours=colours)
    middle = y - size / 2
    axes.text(x + size + 1, middle, "∗", ha="center", va="center", size=20)
    grid(axes, SOBEL, x + size + 2, middle + 1.5)
    axes.text(x + size + 6, middle, "=", ha="center", va="center", size=18)
    grid(axes, out, x + size + 7, middle + 1.5, colours=out_colours)
    for row, column, colour in windows:
        frame(axes, x + column * stride, y - row * stride, 3, 3, colour)
        frame(axes, x + size + 7 + column, middle + 1.5 - row, 1, 1, colour)
    for left, width, text in ((x, size, "input"), (x + size + 2, 3, "kernel"), (x + size + 7, 3, "output")):
        bottom = y - size if text == "input" else middle - 1.5
        axes.text(left + width / 2, bottom - 0.25, text, ha="center", va="top", size=9, color=FAINT)


def im2col():
    """Every window becomes a row of a matrix; one matrix product gives every output of every channel."""
    figure, axes = canvas(24, 11.4)
    picture = np.arange(1, 17).reshape(4, 4)
    kernels = np.array([[[1, 0], [0, 1]], [[1, -1], [1, -1]]])  # (output channel, row, column)
    windows = sliding_window_view(picture, (2, 2))
    columns = windows.reshape(9, 4)
    weight = kernels.reshape(2, 4).T
    out = columns @ weight
    chosen = 4  # the window that is followed through
    row, column = divmod(chosen, 3)
    inside = [["white"] * 4 for _ in range(4)]
    for r, c in np.ndindex(2, 2):
        inside[row + r][column + c] = shade(ORANGE)
    grid(axes, picture, 0.3, 7.6, colours=inside)
    grid(axes, columns, 6.2, 10.1, colours=[[shade(ORANGE) if r == chosen else "white"] * 4 for r in range(9)])
    grid(axes, weight, 12, 7.6, colours=[[shade(BLUE), shade(RED)]] * 4)
    strength = [0.6 if r == chosen else 0.25 for r in range(9)]
    grid(axes, out, 16, 10.1, colours=[[shade(BLUE, s), shade(RED, s)] for s in strength])
    for place, (colour, channel) in enumerate(zip((BLUE, RED), out.T)):
        top = 10.1 - 5.5 * place
        fills = np.array([shade(colour, s) for s in strength]).reshape(3, 3, 3).tolist()
        grid(axes, channel.reshape(3, 3), 20.5, top, colours=fills)
        axes.text(22, top - 3.25, f"output channel {place}", ha="center", va="top", size=9, color=FAINT)
    frame(axes, 0.3 + column, 7.6 - row, 2, 2, ORANGE)
    frame(axes, 6.2, 10.1 - chosen, 4, 1, ORANGE)
    arrow(axes, (4.5, 5.6), (6, 5.6))
    arrow(axes, (18.2, 5.6), (20.2, 5.6))
    for x, text in ((11.1, "×"), (15, "=")):
        axes.text(x, 5.6, text, ha="center", va="center", size=18)
    names = {2.3: "input 4×4", 8.2: "9 windows × 4 numbers", 13: "4 × 2 kernels", 17: "9 × 2"}
    for (x, text), y in zip(names.items(), (3.35, 0.85, 3.35, 0.85)):
        axes.text(x, y, text, ha="center", va="top", size=9, color=FAINT)
    axes.text(0.3, 10.8, "im2col: each window is copied into a row; each kernel is a column", weight="bold")
    return figure


def kernels():
    """Four kernels chosen by hand, and what each answers to in the photograph."""
    conv2d = load_version("v2_vectorized").ops.conv2d
    picture = np.asarray(Image.open(CAT), dtype=np.float32) / 255
    figure, panels = plt.subplots(2, 4, figsize=(WIDTH, 2.9), height_ratios=(1, 1.15))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.9, bottom=0.02, hspace=0.08, wspace=0.05)
    for (name, kernel), (upper, lower) in zip(KERNELS.items(), panels.T):
        draw_kernel(upper, kernel)
        upper.set_title(name, fontsize=10)
        response = conv2d(picture, kernel[None].astype(np.float32))[..., 0]
        most = np.abs(response).max()
        lower.imshow(response, cmap="gray", vmin=0 if response.min() >= 0 else -most, vmax=most)
        lower.axis("off")
    return figure


def draw_kernel(axes, kernel):
    """A (rows, columns, 3) kernel as colours around gray, which is zero."""
    axes.imshow(0.5 + 0.5 * kernel / np.abs(kernel).max())
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, linewidth=0.6)
