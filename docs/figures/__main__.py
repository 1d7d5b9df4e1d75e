"""Draw the articles' pictures and the table of layers: `python -m docs.figures`, from the repository's root."""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

from common.marked import fill
from common.plot_style import STYLE, save
from common.versions import ROOT
from docs.figures import (
    activations,
    buffers,
    channels,
    convolution,
    layer_table,
    learned,
    pooling,
    roofline,
    structure,
    tiling,
)

HERE = Path(__file__).parent
ARTICLE = ROOT / "docs" / "06-resnet50-structure.md"
WEIGHTS = ROOT / "weights" / "resnet50.safetensors"

PICTURES = {
    "channels.png": channels.channels,
    "pixels.png": convolution.pixels,
    "sliding_window.svg": convolution.sliding_window,
    "im2col.svg": convolution.im2col,
    "kernels.png": convolution.kernels,
    "residual_block.svg": structure.residual_block,
    "network.svg": structure.network_diagram,
    "activation_functions.svg": activations.activation_functions,
    "pooling.svg": pooling.pooling,
    "tiling.svg": tiling.tiling,
    "roofline.svg": roofline.roofline,
}
FROM_WEIGHTS = {
    "filters.png": learned.filters,
    "feature_maps.png": learned.feature_maps,
    "buffer_plan.svg": buffers.buffer_plan,  # any weights: only their shapes count
}
NAMES = [*PICTURES, *FROM_WEIGHTS]


def draw(name, path, weights_file=WEIGHTS):
    """Draw the picture of that name into a file. Raises the versions' WeightsError if the weights cannot be used."""
    with plt.rc_context(STYLE):
        save(PICTURES[name]() if name in PICTURES else FROM_WEIGHTS[name](weights_file), path)


def main():
    parser = argparse.ArgumentParser(prog="python -m docs.figures", description="Draw the articles' pictures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all unless given: {', '.join(NAMES)}")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="default: docs/figures")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"there is no picture {min(unknown)!r}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or NAMES:
        try:
            draw(name, arguments.out / name, arguments.weights)
        except Exception as error:  # each version has a WeightsError of its own
            if type(error).__name__ != "WeightsError":
                raise
            parser.exit(1, f"error: {error}\n")
        print(arguments.out / name)
    if not arguments.names:
        ARTICLE.write_text(fill(ARTICLE.read_text("utf-8"), "layers", layer_table.table()), encoding="utf-8")


if __name__ == "__main__":
    main()
