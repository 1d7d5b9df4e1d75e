"""The roofline: what share of its peak a machine can reach in each layer, for three machines."""

import matplotlib.pyplot as plt
import numpy as np

from common import architecture
from common.plot_style import BLUE, FAINT, PLAIN, WIDTH

# FLOPs that a machine can do for every byte it can read from memory: about those of the articles' Zen 3 with AVX2, of a
# core with AVX-512 and the same memory, and of many cores that share one memory.
BALANCES = {8: "-", 17: "--", 100: ":"}


def roofline():
    """The share of its peak that a machine can reach in each layer, for three machines."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4))
    intensity = np.geomspace(0.3, 2e4, 400)
    for balance, line in BALANCES.items():
        axes.plot(intensity, np.minimum(1, intensity / balance), line, color=FAINT, linewidth=1.5)
        axes.text(0.18 * balance, 0.18, f"{balance}", ha="center", va="center", size=9, bbox=PLAIN)
    balance = min(BALANCES)
    found = architecture.layers(224)
    for pixels in sorted({layer.out_shape[:2] for layer in found}):
        same = [layer for layer in found if layer.out_shape[:2] == pixels]
        x = same[0].flops / same[0].bytes  # half the number of output pixels: the same in all of them
        share = sum(layer.flops for layer in same) / architecture.flops(224)
        axes.plot(x, min(1, x / balance), "o", color=BLUE, markersize=9, markeredgecolor="white")
        count = f"{len(same)} layer{'s' if len(same) > 1 else ''}"
        text = f"{pixels[0]}×{pixels[1]}\n{count}\n{100 * share:.2g} %"
        place = {"textcoords": "offset points", "ha": "center", "va": "top", "size": 9, "bbox": PLAIN}
        axes.annotate(text, (x, min(1, x / balance)), (0, -9), **place)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.003, 1.5)
    axes.set_yticks([0.01, 0.1, 1], ["1 %", "10 %", "100 %"])
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel("arithmetic intensity: floating-point operations per byte of weights")
    axes.set_ylabel("share of the peak within reach")
    axes.grid()
    title = "Lines: machines that do 8, 17, 100 operations for a byte read. Dots, on the first: the size of\n"
    title += "the output, the layers of ResNet-50 that have it, and their share of all operations"
    axes.set_title(title, loc="left", fontsize=10)
    figure.tight_layout()
    return figure
