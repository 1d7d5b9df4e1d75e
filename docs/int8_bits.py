"""How many bits version 8's numbers need: the small model's accuracy with 8, 7 or 6, on labelled pictures.

`python docs/int8_bits.py TINY_IMAGENET` takes a quarter of an hour; TINY_IMAGENET is what training/evaluate.py takes as
--data. It writes docs/int8_bits.json, and from it the table in v8_int8/README.md. The integers are computed by PyTorch,
as floats, which hold them, so that no instruction set limits their range.
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from safetensors import safe_open
from tabulate import tabulate

from common import export_weights
from common.marked import fill
from common.versions import ROOT, load_version
from training.pictures import find

RESULTS, ARTICLE = ROOT / "docs" / "int8_bits.json", ROOT / "v8_int8" / "README.md"
FLOAT = "float32"
# Name of a row: percentile of the range, bits of activations and weights, whether each channel has a scale of its own,
# whether scales are version 8's own, which keep AVX2's sums below 2^15.
ROWS = {
    FLOAT: None,
    "8 / 8": (99.99, 8, 8, True, False),
    "7 / 8": (99.99, 7, 8, True, False),
    "7 / 7": (99.99, 7, 7, True, False),
    "6 / 7": (99.99, 6, 7, True, False),
    "7 / 8, range by the maximum": (100, 7, 8, True, False),
    "7 / 8, one scale for a layer's weights": (99.99, 7, 8, False, False),
    "7 / 8, weights small enough for AVX2": (99.99, 7, 8, True, True),
}


class Simulated:
    """Version 8's network for a batch of pictures, with any number of bits; with none, the float32 network."""

    def __init__(self, weights_file, size, row):
        version = load_version("v8_int8")
        self.largest, self.rows = None, row
        percentile, activations, weights, per_channel, own = row or (100, 7, 8, True, False)
        version.calibration.PERCENTILE, version.calibration.LARGEST = percentile, 2**activations - 1
        version.codegen.ZERO = 2 ** (activations - 1)

        def to_bytes(weight, least):
            most = abs(weight).max(axis=(1, 2, 3)) if per_channel else np.full(len(weight), abs(weight).max())
            scale = np.maximum(np.where(most > 0, most, 1) / (2 ** (weights - 1) - 1), least)
            return np.rint(weight / scale[:, None, None, None]), scale

        if not own:
            version.weights.to_bytes = to_bytes
        num_classes = version.weights.read_manifest(weights_file)["num_classes"]
        self.steps = version.resnet50.Network(size, num_classes, version.compiler.ISAS["generic128"]).steps
        self.zeros = {step.name: step.zero for step in self.steps}
        if row:
            self.largest = 2**activations - 1
            self.scales = version.calibration.calibrate(weights_file, self.steps, size, None, cache=False)
        self.weights = {}
        with safe_open(weights_file, framework="numpy") as file:
            for step in self.steps:
                if step.has_weights:
                    weight, bias = version.weights.prepare(file, step)
                    factors = np.stack([bias, np.ones_like(bias), np.ones_like(bias)])
                    if row:
                        weight, factors = version.weights.quantized(weight, bias, step, self.scales)
                    if step.name == "conv1":  # without the zeros that fill a row of the kernel
                        weight = weight[..., : 3 * step.kernel].reshape(-1, step.kernel, step.kernel, 3)
                    self.weights[step.name] = (
                        self.tensor(weight.transpose(0, 3, 1, 2)),
                        self.tensor(factors)[..., None, None],
                    )

    def tensor(self, array):
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))

    def whole(self, x):
        """The bytes' values; no ReLU is lost: with bytes it is the clamp at 0."""
        return x.round().clamp(0, self.largest)

    def forward(self, x):
        """(pictures, 3, size, size) float32 -> (pictures, classes)."""
        arrays = {self.steps[0].x: x}
        for step in self.steps:
            x, arguments, kind = arrays[step.x], step.arguments, step.operator.__name__
            if kind == "quantize":
                y = self.whole(x / self.scales[step.name][0] + step.zero) if self.largest else x
            elif step.has_weights:
                weight, (bias, factor, of_residual) = self.weights[step.name]
                padding = arguments.get("padding", 0)
                zero = self.zeros[step.reads[0]] if self.largest else 0
                x = torch.nn.functional.pad(x, [padding] * 4, value=zero)
                y = torch.nn.functional.conv2d(x, weight, stride=arguments.get("stride", 1))
                y = (y + bias) * factor
                y = y + arrays[step.out] * of_residual if arguments.get("add") else y
                if self.largest and kind == "conv2d":
                    y = self.whole(y)
                elif arguments.get("relu"):
                    y = y.relu()
            elif kind == "max_pool":
                y = torch.nn.functional.max_pool2d(x, 3, 2, 1)
            elif kind == "subsample":
                y = x[:, :, :: arguments["stride"], :: arguments["stride"]]
            else:
                y = x.mean((2, 3), keepdim=True)
                if self.largest:
                    y = self.whole(y * (self.scales[step.reads[0]][0] / self.scales[step.name][0]))
            arrays[step.out] = y
        return y.flatten(1)


def table(results):
    """The article's table."""
    base = results["accuracy"][FLOAT]
    rows = [
        [name, *(f"{100 * share:.2f} %" for share in top), *(f"{100 * (a - b):+.2f}" for a, b in zip(top, base))]
        for name, top in results["accuracy"].items()
    ]
    headers = ["bits of activations / weights", "top-1", "top-5", "points", "points"]
    text = tabulate(rows, headers, tablefmt="pipe", colalign=("left", *["right"] * 4), disable_numparse=True)
    pictures = f"{results['pictures']:,} pictures, seen at {results['size']}×{results['size']}"
    return f"\n{text}\n\n{pictures}, scales from version 8's twelve; points: more than float32.\n\n"


def main(data):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        weights_file = Path(directory, "demo.safetensors")
        export_weights.main(["demo", "--out", str(weights_file)])
        version = load_version("v8_int8")
        manifest = version.weights.read_manifest(weights_file)
        size, classes = manifest["preprocessing"]["crop"], manifest["labels"]
        _, pictures, names = find(Path(data))
        networks = {name: Simulated(weights_file, size, row) for name, row in ROWS.items()}
        right = {name: [0, 0] for name in networks}
        for start in range(0, len(pictures), 50):
            files, labels = zip(*(pictures[n] for n in range(start, min(start + 50, len(pictures)))))
            batch = np.stack([version.image.load_image(file, manifest["preprocessing"]) for file in files])
            batch = torch.from_numpy(batch.transpose(0, 3, 1, 2).copy())
            wanted = torch.tensor([classes.index(names[label]) for label in labels])[:, None]
            for name, network in networks.items():
                with torch.inference_mode():
                    best = network.forward(batch).topk(5).indices == wanted
                right[name] = [right[name][0] + int(best[:, 0].sum()), right[name][1] + int(best.sum())]
        accuracy = {name: [count / len(pictures) for count in counts] for name, counts in right.items()}
        results = {"size": size, "pictures": len(pictures), "accuracy": accuracy}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    ARTICLE.write_text(fill(ARTICLE.read_text("utf-8"), "bits", table(results)), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main(sys.argv[1])
