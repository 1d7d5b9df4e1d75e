"""The weight pool: the weights of every step in one array, packed in the order in which they are used."""

import json
import shlex
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from buffers import aligned
from ozaki import ozaki_conv2d, pack_digits


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


def pack(weight, bias, lanes, layout, packed):
    """Write weight and bias to `packed`, (its size,) float32, in the order in which the generated code reads them.

    layout: see `weight_layout` in ops.py. Output channels that only fill the last panel get zeros.
    """
    panel, panels, chunks = layout
    out_channels, kernel_h, kernel_w, _ = weight.shape
    padded = ((0, panel * panels - out_channels), (0, 0), (0, 0), (0, 0))
    weight = np.pad(weight, padded).reshape(panels, panel, kernel_h, kernel_w, chunks, -1, lanes)
    packed[: panel * panels] = np.pad(bias, padded[0])
    rest = packed[panel * panels :].reshape(chunks, panels, -1, kernel_h, kernel_w, lanes, panel)
    rest[...] = weight.transpose(4, 0, 5, 2, 3, 6, 1)


class WeightPool:
    """The weights of all steps, packed, in one contiguous array of float32."""

    def __init__(self, weights_file: str | Path, steps: list, isa):
        """Check the file, read all of it and pack it for the machine `isa`. Raises WeightsError."""
        self.manifest = read_manifest(weights_file)
        self.array = aligned(sum(step.weight_size for step in steps))
        with safe_open(weights_file, framework="numpy") as file:
            for step in steps:
                if step.has_weights:
                    weight, bias = prepare(file, step)
                    packed = self.array[step.offset : step.offset + step.weight_size]
                    if step.operator == ozaki_conv2d:
                        pack_digits(weight, bias, packed)
                    else:
                        pack(weight, bias, step.x.lanes, step.weight_layout(isa), packed)
