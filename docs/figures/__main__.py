"""Draw the articles' pictures and the table of layers: `python -m docs.figures`, from the repository's root."""

import argparse
import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt

from common.plot_style import STYLE, save
from common.versions import ROOT
from docs.figures import activations, buffers, convolution, layer_table, learned, pooling, roofline, structure, tiling

HERE = Path(__file__).parent
ARTICLE = ROOT / "docs" / "06-resnet50-structure.md"
WEIGHTS = ROOT / "weights" / "resnet50"

PICTURES = {
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


def draw(name, path, weights_dir=WEIGHTS):
    """Draw the picture of that name into a file. Raises the versions' WeightsError if the weights cannot be used."""
    with plt.rc_context(STYLE):
        make = PICTURES[name] if name in PICTURES else partial(FROM_WEIGHTS[name], weights_dir)
        save(make(), path)


def main():
    names = [*PICTURES, *FROM_WEIGHTS]
    parser = argparse.ArgumentParser(
        prog="python -m docs.figures", description="Draw the articles' pictures."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all unless given: {', '.join(names)}")
    parser.add_argument(
        "--weights", type=Path, default=WEIGHTS, metavar="DIR", help="default: weights/resnet50"
    )
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="default: docs/figures")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"there is no picture {min(unknown)!r}")
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name in arguments.names or names:
            draw(name, arguments.out / name, arguments.weights)
            print(arguments.out / name)
    except Exception as error:
        # Each version has a WeightsError of its own.
        if not isinstance(error, OSError) and type(error).__name__ != "WeightsError":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not arguments.names:
        layer_table.rewrite(ARTICLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
