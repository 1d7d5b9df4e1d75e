"""Version 5's tiles of one layer, the registers that hold a tile's sums, and what lies in which cache."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from common import architecture
from common.plot_style import BLUE, FAINT, GREEN, ORANGE, PLAIN, RED, WIDTH, shade
from common.versions import load_version

MIB = 2**20
LAYER = "layer1.0.conv2"
CACHES = {"L1: 32 KiB": 32 * 2**10, "L2: 512 KiB": MIB // 2}  # of one core of a Zen 3; `lscpu` tells yours


def tiling():
    """One layer of version 5: the tiles of its output, a tile's sums in the registers, and what lies in which cache."""
    version = load_version("v5_codegen")
    isa = version.compiler.ISAS["avx2"]  # as in version 5's article
    layer = next(layer for layer in architecture.layers(224) if layer.name == LAYER)
    height, width, _ = layer.out_shape
    tile = version.ops.block_shape(isa.pixels, height, width)[:2]
    figure = plt.figure(figsize=(WIDTH, 6.6))
    plane, registers = figure.add_axes((0.01, 0.43, 0.4, 0.5)), figure.add_axes((0.45, 0.43, 0.54, 0.5))
    draw_plane(plane, version, height, width, tile)
    draw_registers(registers, version, isa, tile)
    draw_caches(figure.add_axes((0.31, 0.09, 0.66, 0.27)), version, isa, layer, tile)
    return figure


def draw_plane(axes, version, height, width, tile):
    rows, columns = (
        [start for size, first, end in version.ops.split(extent, most) for start in range(first, end, size)] + [extent]
        for extent, most in ((height, tile[0]), (width, tile[1]))
    )
    axes.hlines(rows, 0, width, color=FAINT, linewidth=0.5)
    axes.vlines(columns, 0, height, color=FAINT, linewidth=0.5)
    axes.add_patch(Rectangle((0, 0), columns[1], rows[1], facecolor=ORANGE))
    axes.set(xlim=(-0.5, width + 0.5), ylim=(height + 0.5, -0.5), aspect="equal")
    axes.axis("off")
    axes.set_title(f"{LAYER}: {height}×{width} outputs,\ntiles of {tile[0]}×{tile[1]} pixels", fontsize=10, loc="left")


def draw_registers(axes, version, isa, tile):
    pixels, vectors = tile[0] * tile[1], version.ops.VECTORS
    axes.set(xlim=(0, 9), ylim=(0, 8.6))
    axes.axis("off")
    channels = [f"{v * isa.width}–{(v + 1) * isa.width - 1}" for v in range(vectors)]
    names = [(f"pixel {pixel}\n{part}", shade(ORANGE)) for pixel in range(pixels) for part in channels]
    names += [(f"weights\n{part}", shade(BLUE)) for part in channels]
    names += [("input,\none number\nin every lane", shade(GREEN)), ("", "white")]
    for place, (text, colour) in enumerate(names):
        row, column = divmod(place, 4)
        axes.add_patch(Rectangle((column * 2.24, 6.3 - row * 2.05), 2.1, 1.9, facecolor=colour, edgecolor=FAINT))
        axes.text(column * 2.24 + 1.05, 7.25 - row * 2.05, text, ha="center", va="center", size=8)
    title = f"{len(names)} vector registers of {isa.width} numbers: {pixels * vectors} sums\n"
    title += f"(a pixel, its output channels), {vectors} of weights, an input"
    axes.set_title(title, fontsize=10, loc="left")


def draw_caches(axes, version, isa, layer, tile):
    """Bytes that one tile, one panel of weights and the layer touch, on a log scale with the caches' sizes."""
    channels = layer.in_shape[2]
    buffer = version.buffers.Buffer
    x, out = (buffer("", shape, isa.width, border=1) for shape in (layer.in_shape, layer.out_shape))
    panel, _, chunks = version.ops.weight_layout(isa, x, out, layer.kernel)
    bars = {
        "a tile's sums": (4 * tile[0] * tile[1] * version.ops.VECTORS * isa.width, ORANGE),
        "a tile's inputs": (4 * (tile[0] + 2) * (tile[1] + 2) * channels, GREEN),
        "weights of a panel": (4 * panel * channels * layer.kernel**2 // chunks, BLUE),
        "the layer's input": (4 * x.size, GREEN),
        "weights of all layers": (sum(other.bytes for other in architecture.layers(224)), BLUE),
    }
    for place, (size, colour) in enumerate(bars.values()):
        axes.barh(place, size, color=shade(colour, 0.65), edgecolor=FAINT, height=0.65)
        axes.text(size * 1.15, place, size_text(size), va="center", size=9, bbox=PLAIN)
    for name, size in CACHES.items():
        axes.axvline(size, color=RED, linestyle="--", linewidth=1.2)
        axes.text(size, -0.75, name, ha="center", va="bottom", color=RED, size=9)
    axes.set_xscale("log", base=2)
    axes.set_xticks([2**10, 2**20, 2**30], ["1 KiB", "1 MiB", "1 GiB"])
    axes.minorticks_off()
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set(xlim=(2**7, 2**30), ylim=(len(bars) - 0.5, -0.6), xlabel="bytes (log scale); dashed: the caches of a core")


def size_text(size):
    return f"{size / MIB:.1f} MiB" if size >= MIB / 2 else f"{size / 2**10:.3g} KiB"
