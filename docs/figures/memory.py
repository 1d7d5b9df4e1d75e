"""Where numbers live: version 4's buffer plan over time, version 5's tiles and the caches, and the roofline."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch, Rectangle

from bench import network
from bench.versions import load_version
from docs.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    RED,
    SKY,
    WIDTH,
    shade,
)

MIB = 2**20
PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # behind text that a line may cross
KINDS = {"activation": BLUE, "input, padded": ORANGE, "im2col columns": SKY}
LAYER = "layer1.0.conv2"  # whose tiles are shown
CACHES = {"L1: 32 KiB": 32 * 2**10, "L2: 1 MiB": MIB}  # of one core of a server; `lscpu` tells yours
BALANCES = {6: ":", 22: "--", 88: "-"}  # FLOPs that a machine can do for every byte it can read from memory


def buffer_plan(weights_dir):
    """Every buffer of version 4 as a rectangle: the steps during which it is live, and the bytes it lies in."""
    model = recorded_model(weights_dir)
    figure, axes = plt.subplots(figsize=(WIDTH, 4.3))
    for buffer in model.plan.buffers:
        start, end = model.plan.taken[buffer], model.plan.released.get(buffer, len(model.steps))
        kind = next((kind for kind in KINDS if kind.split()[-1] in buffer.name), "activation")
        corner, height = (start, 4 * buffer.offset / MIB), 4 * buffer.size / MIB
        axes.add_patch(
            Rectangle(
                corner,
                max(end - start, 0.8),
                height,
                facecolor=shade(KINDS[kind], 0.65),
                edgecolor=INK,
                linewidth=0.4,
            )
        )
    starts = {name: done for done, (name, _) in model.probes.items()}
    ends = [0, *(starts[name] for name in ("stem", "layer1", "layer2", "layer3", "layer4"))]
    for name, left, right in zip(("stem", "layer1", "layer2", "layer3", "layer4"), ends, ends[1:]):
        axes.axvline(right, color=FAINT, linewidth=0.8, linestyle="--")
        axes.text(
            (left + right) / 2, 4 * model.plan.size / MIB * 1.02, name, ha="center", va="bottom", size=9
        )
    unshared = sum(4 * buffer.size for buffer in model.plan.buffers) / MIB
    axes.set_xlim(0, len(model.steps))
    axes.set_ylim(0, 4 * model.plan.size / MIB)
    axes.set_xlabel("step of the plan")
    axes.set_ylabel("place in the block, MiB")
    axes.legend(
        handles=[Patch(color=shade(c, 0.65), label=n) for n, c in KINDS.items()],
        framealpha=1,
        edgecolor="white",
    )
    count, size = len(model.plan.buffers), 4 * model.plan.size / MIB
    title = f"{count} buffers of {unshared:.1f} MiB together, in a block of {size:.1f} MiB"
    axes.set_title(title, loc="left", fontsize=10, pad=20)
    figure.tight_layout()
    return figure


def recorded_model(weights_dir):
    """Return version 4's network, its plan with `taken` and `released`: {buffer: number of steps noted before}."""
    version = load_version("v4_no_alloc")

    class RecordedPlan(version.buffers.BufferPlan):
        def __init__(self):
            super().__init__()
            self.taken, self.released, self.steps = {}, {}, ()

        def take(self, name, shape):
            buffer = super().take(name, shape)
            self.taken[buffer] = len(self.steps)
            return buffer

        def release(self, *buffers):
            super().release(*buffers)
            self.released.update(dict.fromkeys(buffers, len(self.steps)))

    class RecordedNetwork(version.resnet50.ResNet50):
        def plan_forward(self, x):
            self.plan.steps = self.steps
            return super().plan_forward(x)

    version.resnet50.BufferPlan = RecordedPlan
    return RecordedNetwork(weights_dir)


def tiling():
    """One layer of version 5: the tiles of its output, a tile's sums in the registers, and what lies in which cache."""
    version = load_version("v5_codegen")
    isa = version.compiler.ISAS["avx512"]
    layer = next(layer for layer in network.layers(224) if layer.name == LAYER)
    height, width, _ = layer.out_shape
    tile = version.ops.tile_shape(isa.pixels, height, width)
    figure = plt.figure(figsize=(WIDTH, 6.6))
    plane, registers = figure.add_axes((0.01, 0.43, 0.4, 0.5)), figure.add_axes((0.45, 0.43, 0.54, 0.5))
    draw_plane(plane, version, height, width, tile)
    draw_registers(registers, version, isa, tile)
    draw_caches(figure.add_axes((0.31, 0.09, 0.66, 0.27)), version, isa, layer, tile)
    return figure


def draw_plane(axes, version, height, width, tile):
    for size_y, first_y, end_y in version.ops.split(height, tile[0]):
        for size_x, first_x, end_x in version.ops.split(width, tile[1]):
            for y in range(first_y, end_y, size_y):
                for x in range(first_x, end_x, size_x):
                    chosen = (y, x) == (0, 0)
                    axes.add_patch(
                        Rectangle(
                            (x, y),
                            size_x,
                            size_y,
                            facecolor=ORANGE if chosen else "white",
                            edgecolor=FAINT,
                            linewidth=0.5,
                        )
                    )
    axes.set_xlim(-0.5, width + 0.5)
    axes.set_ylim(height + 0.5, -0.5)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title(
        f"{LAYER}: {height}×{width} outputs,\ntiles of {tile[0]}×{tile[1]} pixels", fontsize=10, loc="left"
    )


def draw_registers(axes, version, isa, tile):
    pixels, vectors = tile[0] * tile[1], version.ops.VECTORS
    axes.set_xlim(0, 9)
    axes.set_ylim(0, 8.6)
    axes.axis("off")
    channels = [f"{v * isa.width}–{(v + 1) * isa.width - 1}" for v in range(vectors)]
    names = [(f"pixel {pixel}\n{part}", shade(ORANGE)) for pixel in range(pixels) for part in channels]
    names += [(f"weights\n{part}", shade(BLUE)) for part in channels]
    names += [("input", shade(GREEN))] + [("", "white")] * (32 - len(names) - 1)
    for place, (text, colour) in enumerate(names):
        row, column = divmod(place, 8)
        axes.add_patch(
            Rectangle((column * 1.12, 6.3 - row * 2.05), 1.05, 1.9, facecolor=colour, edgecolor=FAINT)
        )
        axes.text(column * 1.12 + 0.52, 7.25 - row * 2.05, text, ha="center", va="center", size=7.5)
    axes.set_title(
        f"32 vector registers of {isa.width} numbers: {pixels * vectors} sums\n"
        f"(a pixel, its output channels), {vectors} of weights, an input",
        fontsize=10,
        loc="left",
    )


def draw_caches(axes, version, isa, layer, tile):
    """Bytes that one tile, one panel of weights and the layer touch, on a log scale with the caches' sizes."""
    channels = layer.in_shape[2]
    buffer = version.buffers.Buffer
    x, out = (buffer("", shape, isa.width, border=1) for shape in (layer.in_shape, layer.out_shape))
    panel, _, chunks = version.ops.weight_blocks(isa, x, out, layer.kernel)
    bars = {
        "a tile's sums": (4 * tile[0] * tile[1] * version.ops.VECTORS * isa.width, ORANGE),
        "a tile's inputs": (4 * (tile[0] + 2) * (tile[1] + 2) * channels, GREEN),
        "weights of a panel": (4 * panel * channels * layer.kernel**2 // chunks, BLUE),
        "the layer's input": (4 * x.size, GREEN),
        "weights of all layers": (sum(other.bytes for other in network.layers(224)), BLUE),
    }
    for place, (size, colour) in enumerate(bars.values()):
        axes.barh(place, size, color=shade(colour, 0.65), edgecolor=FAINT, height=0.65)
        axes.text(size * 1.15, place, size_text(size), va="center", size=9, bbox=PLAIN)
    for name, size in CACHES.items():
        axes.axvline(size, color=RED, linestyle="--", linewidth=1.2)
        axes.text(size, -0.75, name, ha="center", va="bottom", color=RED, size=9)
    axes.set_xscale("log", base=2)
    axes.set_xlim(2**9, 2**30)
    axes.set_xticks([2**10, 2**20, 2**30], ["1 KiB", "1 MiB", "1 GiB"])
    axes.minorticks_off()
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set_ylim(len(bars) - 0.5, -0.6)
    axes.set_xlabel("bytes (log scale); dashed: the caches of a core")


def size_text(size):
    return f"{size / MIB:.1f} MiB" if size >= MIB / 2 else f"{size / 2**10:.3g} KiB"


def roofline():
    """The share of its peak that a machine can reach in each layer, for three machines."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4))
    intensity = np.geomspace(0.3, 2e4, 400)
    for balance, line in BALANCES.items():
        axes.plot(intensity, np.minimum(1, intensity / balance), line, color=FAINT, linewidth=1.5)
        axes.text(0.06 * balance, 0.06, f"{balance}", ha="center", va="center", size=9, bbox=PLAIN)
    balance = sorted(BALANCES)[1]
    found = network.layers(224)
    for pixels in sorted({layer.out_shape[:2] for layer in found}):
        same = [layer for layer in found if layer.out_shape[:2] == pixels]
        x = same[0].flops / same[0].bytes  # half the number of output pixels: the same in all of them
        share = sum(layer.flops for layer in same) / network.flops(224)
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
    title = "Lines: machines that do 6, 22, 88 operations for a byte read. Dots, on the middle one: the size of\n"
    title += "the output, the layers of ResNet-50 that have it, and their share of all operations"
    axes.set_title(title, loc="left", fontsize=10)
    figure.tight_layout()
    return figure
