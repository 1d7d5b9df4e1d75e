"""ReLU among its relatives."""

import math

import matplotlib.pyplot as plt
import numpy as np

from common.plot_style import BLUE, FAINT, GREEN, ORANGE, PINK, WIDTH


def activation_functions():
    """Four activation functions and their slopes."""
    x = np.linspace(-4, 4, 801)
    erf = np.vectorize(math.erf)
    functions = {
        "ReLU": (np.maximum(x, 0), BLUE, "-"),
        "sigmoid": (1 / (1 + np.exp(-x)), ORANGE, "--"),
        "tanh": (np.tanh(x), GREEN, "-."),
        "GELU": (x * (1 + erf(x / math.sqrt(2))) / 2, PINK, ":"),
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.3))
    for name, (y, colour, line) in functions.items():
        left.plot(x, y, line, color=colour, linewidth=2, label=name)
        right.plot(x, np.gradient(y, x), line, color=colour, linewidth=2, label=name)
    left.set_title("the function", loc="left", fontsize=10)
    right.set_title("its slope", loc="left", fontsize=10)
    left.set_ylim(-1.2, 3)
    right.set_ylim(-0.2, 1.2)
    for axes in (left, right):
        axes.set_xlabel("input")
        axes.grid()
        axes.axhline(0, color=FAINT, linewidth=0.8)
    left.legend(framealpha=1, edgecolor="white")
    figure.tight_layout()
    return figure
