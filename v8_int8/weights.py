"""The weight pool: the weights of every step as bytes in one array, packed in the order in which they are used."""

import json
import shlex
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from buffers import aligned
from ops import run_length, window


class WeightsError(Exception):
    """Weights that cannot be used; the message is one line that names the file and the command that mends it."""


def read_manifest(weights_file: str | Path) -> dict:
    """Return the manifest of a weights file: source, num_classes, labels (one a class), preprocessing; perhaps a note.

    Raises WeightsError unless the file is whole, of this format, and holds the tensors of a ResNet-50.
    """
    if Path(weights_file).is_dir() or Path(weights_file).suffix in (".pth", ".pt"):
        raise WeightsError(f"{weights_file} is no export: python common/export_weights.py [checkpoint FILE] makes one")
    try:
        with safe_open(weights_file, framework="numpy") as file:
            manifest = json.loads((file.metadata() or {})["manifest"])
            if manifest["format"] != 2:
                raise ValueError(f"format {manifest['format']}, this code reads format 2")
            if len(manifest["labels"]) != manifest["num_classes"]:
                raise ValueError(f"{len(manifest['labels'])} labels for {manifest['num_classes']} classes")
            for name, shape in resnet50_shapes(manifest["num_classes"]).items():
                found = file.get_slice(name)
                if (found.get_dtype(), *found.get_shape()) != ("F32", *shape):
                    raise ValueError(f"{name} is {found.get_dtype()} {found.get_shape()}, not float32 {list(shape)}")
            return manifest
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        command = f"python common/export_weights.py --out {shlex.quote(str(weights_file))}"
        raise WeightsError(f"{weights_file} cannot be used ({error}); to mend it: {command}") from None


def resnet50_shapes(num_classes: int) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of every tensor of ResNet-50; convolutions are (out, kernel_h, kernel_w, in)."""
    convolutions, in_channels = {"conv1": (64, 7, 7, 3)}, 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in (f"layer{stage}.{index}" for index in range(blocks)):
            convolutions[f"{block}.conv1"] = width, 1, 1, in_channels
            convolutions[f"{block}.conv2"] = width, 3, 3, width
            convolutions[f"{block}.conv3"] = 4 * width, 1, 1, width
            if block.endswith(".0"):
                convolutions[f"{block}.downsample.0"] = 4 * width, 1, 1, in_channels
            in_channels = 4 * width
    shapes = {"fc.weight": (num_classes, in_channels), "fc.bias": (num_classes,)}
    for conv, shape in convolutions.items():
        bn = conv.replace("conv", "bn").replace("downsample.0", "downsample.1")
        shapes[f"{conv}.weight"] = shape
        shapes |= {f"{bn}.{name}": shape[:1] for name in ("weight", "bias", "running_mean", "running_var")}
    return shapes


def prepare(file, step, epsilon=1e-5):
    """Return the weight (out, kernel_h, kernel_w, in) and bias (out,) of a step, its batch norm folded in, float64."""
    weight = file.get_tensor(f"{step.name}.weight").astype(np.float64)
    if not step.batch_norm:
        return weight[:, None, None], file.get_tensor(f"{step.name}.bias")
    kinds = (f"{step.batch_norm}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var"))
    gamma, beta, mean, variance = (file.get_tensor(kind).astype(np.float64) for kind in kinds)
    scale = gamma / np.sqrt(variance + epsilon)
    return weight * scale[:, None, None, None], beta - mean * scale


def to_bytes(weight, least):
    """Return weight / scale as integers of -127 to 127, and the scales, (out,) float64, none below `least`.

    Of every 16 input channels in a row (12 in the stem) AVX2 adds the products of half in 16 bits: 0, 1, 4, 5, 8, ...
    and 2, 3, 6, 7, 10, .... 127 times the positive ones of their weights must not exceed 32767, nor the negative ones:
    they add up to 258 at most, 254 before each is rounded. That costs a quarter of a bit on average.
    """
    runs = weight.reshape(len(weight), -1, run_length(weight.shape[-1]) // 4, 2, 2)
    sums = [np.maximum(sign * runs, 0).sum(axis=(2, 4)).max(axis=(1, 2)) for sign in (1, -1)]
    scale = np.maximum(abs(runs).max(axis=(1, 2, 3, 4)) / 127, np.maximum(*sums) / 254)
    scale = np.maximum(scale, least)
    scale[scale == 0] = 1  # a channel without weights
    return np.rint(weight / scale[:, None, None, None]), scale


def quantized(weight, bias, step, scales):
    """Return a step's weights as integers (out, kernel_h, kernel_w, in), and (3, out) bias, factor, residual's factor.

    (bias + sum) * factor + residual * its factor are the output's bytes. A byte stands for scale * (byte - zero); the
    zeros become a part of the bias, an integer. None of the numbers on the way reaches 2^31: sums stay
    below 2^27, a bias at 2^29 and what its zeros add, and no factor is above 2.
    """
    if step.x.channels == 3:  # a row of the kernel counts as channels, filled up to fours
        rows = weight.reshape(len(weight), step.kernel, 1, -1)
        weight = np.pad(rows, ((0, 0), (0, 0), (0, 0), (0, -rows.shape[-1] % 4)))
    (x, x_zero), (residual, residual_zero), *_ = [*(scales[name] for name in step.reads), (0, 0)]
    out, out_zero = scales.get(step.name, (1, 0))  # the logits are no bytes
    bias = bias + out_zero * out - residual_zero * residual
    weight, scale = to_bytes(weight, abs(bias) / x / 2**29)
    bias = np.rint(bias / (scale * x)) - x_zero * weight.sum(axis=(1, 2, 3))
    factor = np.minimum(scale * x / out, 2)
    return weight, np.stack([bias, factor, np.full_like(bias, min(residual / out, 2**20))])


def pack(weight, factors, window, layout, packed):
    """Write weight and factors to `packed`, (its size,) int8, in the order in which the generated code reads them.

    layout: see `weight_layout` in ops.py. Output channels that only fill the last panel get zeros.
    """
    panel, panels, _ = layout
    kernel_h, kernel_w, lanes = window
    padded = ((0, panel * panels - len(weight)), (0, 0), (0, 0), (0, 0))
    weight = np.pad(weight, padded).reshape(panels, panel, kernel_h, kernel_w, -1, lanes // 4, 4)
    rest = packed[12 * panel * panels :].reshape(panels, -1, kernel_h, kernel_w, lanes // 4, panel, 4)
    rest[...] = weight.transpose(0, 4, 2, 3, 5, 1, 6)
    for kind, row, row_packed in zip("iff", factors, packed[: 12 * panel * panels].reshape(3, -1)):
        row_packed.view(kind)[...] = np.pad(row, padded[0])


class WeightPool:
    """The weights of all steps, packed, in one contiguous array of bytes."""

    def __init__(self, weights_file: str | Path, steps: list, isa, scales: dict[str, tuple[float, int]]):
        """Check the file, read all of it and pack it for the machine `isa`. Raises WeightsError.

        scales: of each step's output, by its name: what one more in a byte means, and the byte that stands for zero.
        """
        self.manifest = read_manifest(weights_file)
        self.array = aligned(sum(step.weight_size for step in steps))
        with safe_open(weights_file, framework="numpy") as file:
            for step in steps:
                packed = self.array[step.offset : step.offset + step.weight_size]
                if step.has_weights:
                    weight, factors = quantized(*prepare(file, step), step, scales)
                    pack(weight, factors, window(step.x, step.kernel), step.weight_layout(isa), packed)
                elif step.weight_size:  # one factor
                    pixels = step.x.height * step.x.width if step.reads else 1
                    before = scales[step.reads[0]][0] / pixels if step.reads else 1
                    packed.view(np.float32)[0] = before / scales[step.name][0]
