"""The look of every plot and diagram: colours, letters, boxes, arrows, and saving that gives the same file each time.

`with plt.rc_context(STYLE): ...` around the drawing, `save` at its end.
"""

import io
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image

from common import versions

WIDTH = 8.4  # inches; 806 pixels at the 96 dots an inch of a browser: about the width of an article
# Okabe and Ito's palette, told apart by all kinds of colour vision.
ORANGE, SKY, GREEN, BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
RED, PINK, YELLOW = "#D55E00", "#CC79A7", "#F0E442"
WINE = "#882255"  # Tol's, since Okabe and Ito's eighth is black, as INK is
INK, FAINT, PALE = "#222222", "#777777", "#EEEEEE"
PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # behind text that a line may cross
VERSION_COLOURS = dict(zip(versions.VERSIONS, (FAINT, ORANGE, SKY, GREEN, BLUE, RED, PINK, YELLOW, WINE)))
ENGINE = "#BBBBBB"  # what is not a version
STAGES = {"stem": PINK, "layer1": ORANGE, "layer2": SKY, "layer3": GREEN, "layer4": BLUE, "fc": RED}
STYLE = {
    "font.family": "DejaVu Sans",  # matplotlib brings it along
    "font.size": 10,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "svg.hashsalt": "resnet50",  # without it the ids in an SVG file are random
}


def colour(name: str) -> str:
    """A version's colour, or the engines'."""
    return VERSION_COLOURS.get(name, ENGINE)


def save(figure, path):
    """Write a figure as SVG or PNG, by the path's ending, and close it."""
    if Path(path).suffix == ".svg":
        figure.savefig(path, metadata={"Date": None})
    else:
        whole = io.BytesIO()
        figure.savefig(whole, dpi=120)
        with Image.open(whole) as picture:  # 256 colours, the best for this picture, take a third of the bytes
            colours = picture.convert("RGB")
            colours.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=5).save(path, optimize=True)
    plt.close(figure)


def canvas(width, height, inches=None):
    """Return (figure, axes) for a diagram of width x height units, y upwards, without ticks, all units square."""
    figure, axes = plt.subplots(figsize=(WIDTH, inches or WIDTH * height / width))
    axes.set_position((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_aspect("equal")
    axes.axis("off")
    return figure, axes


def box(axes, x, y, width, height, text, colour, size=10):
    """A rounded box around the middle (x, y), filled with a pale shade of its colour."""
    corner = (x - width / 2, y - height / 2)
    round_box = f"round,pad=0,rounding_size={min(width, height) / 5}"
    axes.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle=round_box, facecolor=shade(colour), edgecolor=colour, zorder=3)
    )
    axes.text(x, y, text, ha="center", va="center", size=size, zorder=4)


def arrow(axes, start, end, bend=None, **style):
    """An arrow from start to end. bend: matplotlib's connectionstyle."""
    look = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0} | style
    axes.annotate("", end, start, arrowprops=look | ({"connectionstyle": bend} if bend else {}))


def grid(axes, values, x, y, cell=1, colours=None, size=10):
    """A table of cells, its upper left corner at (x, y). values: rows of texts. colours: rows of fill colours."""
    for row, line in enumerate(values):
        for column, text in enumerate(line):
            left, bottom = x + column * cell, y - (row + 1) * cell
            colour = colours[row][column] if colours else "white"
            axes.add_patch(Rectangle((left, bottom), cell, cell, facecolor=colour, edgecolor=FAINT, linewidth=0.8))
            axes.text(left + cell / 2, bottom + cell / 2, text, ha="center", va="center", size=size)


def frame(axes, x, y, width, height, colour, **style):
    """The outline of a rectangle whose upper left corner is (x, y)."""
    axes.add_patch(
        Rectangle((x, y - height), width, height, fill=False, edgecolor=colour, **{"linewidth": 2.5} | style)
    )


def shade(colour, strength=0.25):
    """A colour mixed with white."""
    red, green, blue = matplotlib.colors.to_rgb(colour)
    return tuple(1 - strength * (1 - part) for part in (red, green, blue))
