"""What the network looks like: the residual block, and all stages with their shapes."""

import math

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from common import architecture
from common.plot_style import BLUE, FAINT, INK, ORANGE, SKY, STAGES, arrow, box, canvas, shade
from docs.figures.layer_table import parameters

IMAGE_SIZE = 224


def residual_block():
    """A bottleneck that keeps its input's shape, and one that halves the size and needs a downsample convolution."""
    layers = {layer.name: layer for layer in architecture.layers(IMAGE_SIZE)}
    figure, axes = canvas(21, 16.5)
    draw_block(axes, layers, "layer2.1", middle=5.2, identity=2.1 - 0.9)
    draw_block(axes, layers, "layer2.0", middle=16.8, identity=11.7)
    return figure


def draw_block(axes, layers, name, middle, identity):
    first, downsample = layers[f"{name}.conv1"], layers.get(f"{name}.downsample.0")
    title = "half the size, other channels" if downsample else "the same shape"
    axes.text(middle, 16, f"{name}: {title}", ha="center", size=10, weight="bold")
    axes.text(middle, 15.2, f"x: {shape_text(first.in_shape)}", ha="center")
    y, start = 12.9, 14.95
    for conv in ("conv1", "conv2", "conv3"):
        layer = layers[f"{name}.{conv}"]
        stride = f", stride {layer.stride}" if layer.stride > 1 else ""
        after = "batch norm" if conv == "conv3" else "batch norm, ReLU"
        arrow(axes, (middle, start), (middle, y + 0.85))
        kernel = f"{layer.kernel}×{layer.kernel}"
        box(axes, middle, y, 5.6, 1.7, f"{conv}: {kernel}{stride}\n{after}", BLUE if layer.kernel == 3 else SKY)
        axes.text(middle + 0.25, y - 1.35, shape_text(layer.out_shape), va="center", size=9, color=FAINT)
        start, y = y - 0.85, y - 3.2
    arrow(axes, (middle, start), (middle, 2.95))
    axes.text(middle, 2.4, "+", ha="center", va="center", size=15)
    axes.add_patch(plt.Circle((middle, 2.4), 0.55, fill=False, color=INK))
    axes.plot([middle, identity, identity], [14.5, 14.5, 2.4], color=ORANGE, linewidth=2.5)
    arrow(axes, (identity, 2.4), (middle - 0.55, 2.4), color=ORANGE, linewidth=2.5)
    if downsample:
        box(axes, identity + 0.2, 8.1, 3.6, 2.5, f"downsample:\n1×1, stride {downsample.stride}\nbatch norm", ORANGE)
    else:
        axes.text(identity + 0.25, 8.1, "x", size=12, va="center")
    arrow(axes, (middle, 1.85), (middle, 0.75))
    axes.text(middle + 0.25, 1.35, "ReLU", size=9, color=FAINT, va="center")
    axes.text(middle, 0.25, shape_text(layers[f"{name}.conv3"].out_shape), ha="center", va="center")


def shape_text(shape):
    return "{}×{}×{}".format(*shape)


def network_diagram():
    """Every stage as a block: as high as the feature map, as wide as the square root of its channels."""
    figure, axes = canvas(300, 116)
    x, end = 34, None
    for name, shape, lines in stage_rows():
        height, width = max(0.26 * shape[0], 1.2), max(0.65 * math.sqrt(shape[2]), 2.5)
        cell = max(width, 22)
        colour = STAGES.get(name, FAINT)
        left = x + (cell - width) / 2
        look = {"facecolor": shade(colour, 0.4), "edgecolor": colour}
        axes.add_patch(Rectangle((left, 76 - height / 2), width, height, **look))
        axes.text(x + cell / 2, 40, name, ha="center", va="top", weight="bold", size=9)
        axes.text(x + cell / 2, 34.5, "\n".join(lines), ha="center", va="top", size=8, linespacing=1.5)
        if end:
            arrow(axes, (end + 0.6, 76), (left - 0.6, 76), color=FAINT)
        end = left + width
        x += cell + 5
    title = "height of a block = height of its feature map, width = square root of its channels"
    axes.text(4, 110, f"ResNet-50 for a 224×224 picture: {title}", size=9.5)
    labels = "output\n\nconvolutions\nparameters\nmultiply-adds"
    axes.text(4, 34.5, labels, va="top", size=8, linespacing=1.5, color=FAINT)
    return figure


def stage_rows():
    """[(name, shape of the output, lines of text), ...] from the image to the classes."""
    by_stage = {}
    for layer in architecture.layers(IMAGE_SIZE):
        by_stage.setdefault(layer.name.split(".")[0], []).append(layer)
    rows = [("image", (IMAGE_SIZE, IMAGE_SIZE, 3), ["224×224", "×3"])]
    for name, layers in by_stage.items():
        shape = layers[-1].out_shape
        if name == "fc":
            pooled = layers[0].in_shape
            rows.append(("avgpool", pooled, ["1×1", f"×{pooled[2]}"]))
        count = str(len(layers)) if name != "fc" else "–"
        trained, work = sum(map(parameters, layers)), sum(layer.multiply_adds for layer in layers)
        lines = [f"{shape[0]}×{shape[1]}", f"×{shape[2]}", count, amount(trained), amount(work)]
        rows.append((name, shape, lines))
        if name == "conv1":
            size = architecture.halved(shape[0])
            rows.append(("maxpool", (size, size, shape[2]), [f"{size}×{size}", f"×{shape[2]}"]))
    return rows


def amount(number):
    """1234567 -> 1.2 M"""
    if number < 1e5:
        return f"{number / 1e3:.0f} k"
    return f"{number / 1e6:,.0f} M" if number >= 1e8 else f"{number / 1e6:.1f} M"
