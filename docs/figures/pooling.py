"""The max pool of ResNet-50 on a small feature map, and the average of its result."""

import numpy as np

from common.plot_style import BLUE, FAINT, ORANGE, PALE, arrow, canvas, frame, grid, shade
from common.versions import load_version

FEATURE_MAP = [
    [0, 0, 3, 0, 0, 1],
    [0, 7, 2, 0, 0, 0],
    [0, 1, 0, 0, 5, 0],
    [4, 0, 0, 6, 0, 0],
    [0, 0, 0, 0, 0, 2],
    [1, 0, 0, 0, 0, 0],
]
WINDOWS = [(0, 0, ORANGE), (1, 2, BLUE)]  # row and column of the output, colour


def pooling():
    """Two windows of the max pool, 3x3, stride 2, padding 1; then one number for all that is left."""
    ops = load_version("v1_loops").ops
    x = [[[value] for value in row] for row in FEATURE_MAP]
    pooled = ops.max_pool(x, kernel=3, stride=2, padding=1)
    average = ops.average_pool(pooled)[0]
    figure, axes = canvas(21, 9)
    padded = np.pad(np.array(FEATURE_MAP, dtype=object), 1, constant_values="−∞")
    colours = [[PALE if text == "−∞" else "white" for text in row] for row in padded]
    out_colours = [["white"] * 3 for _ in range(3)]
    for row, column, colour in WINDOWS:
        out_colours[row][column] = shade(colour)
        for r, c in np.ndindex(3, 3):
            colours[2 * row + r][2 * column + c] = shade(colour)
    grid(axes, padded, 0.3, 8.7, colours=colours, size=9)
    grid(axes, [[pixel[0] for pixel in row] for row in pooled], 11.3, 6.2, colours=out_colours)
    grid(axes, [[f"{average:.2f}"]], 17.8, 5.5, cell=1.6)
    for row, column, colour in WINDOWS:
        frame(axes, 0.3 + 2 * column, 8.7 - 2 * row, 3, 3, colour)
        frame(axes, 11.3 + column, 6.2 - row, 1, 1, colour)
    arrow(axes, (8.7, 4.7), (11, 4.7))
    arrow(axes, (14.6, 4.7), (17.5, 4.7))
    for x, y, text in ((9.85, 5.2, "max pool"), (16.05, 5.2, "average")):
        axes.text(x, y, text, ha="center", size=9)
    for x, y, text in ((4.3, 0.45, "6×6, with a border"), (12.8, 2.95, "3×3"), (18.6, 3.65, "one number")):
        axes.text(x, y, text, ha="center", va="top", size=9, color=FAINT)
    return figure
