"""The weight pool: every tensor in one array, checked and read when the model is built."""

import json
import shlex
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open


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


def prepare(file: safe_open, shapes: dict, epsilon: float = 1e-5) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (name, tensor) in the form that the operators use, from an open weights file with tensors of these shapes.

    A convolution holds the factor of its batch norm; of the batch norm, NAME.shift is left (see ops.batch_norm).
    """
    for name, shape in shapes.items():
        layer, _, _ = name.rpartition(".")
        if layer == "fc":
            yield name, file.get_tensor(name)
        elif len(shape) == 4:
            bn = layer.replace("conv", "bn").replace("downsample.0", "downsample.1")
            kinds = (f"{bn}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var"))
            gamma, beta, mean, variance = map(file.get_tensor, kinds)
            scale = gamma / np.sqrt(variance + np.float32(epsilon))
            yield name, file.get_tensor(name) * scale[:, None, None, None]
            yield f"{bn}.shift", beta - mean * scale


class WeightPool:
    """The tensors of a weights file by name, as views of one contiguous array of float32."""

    def __init__(self, weights_file: str | Path):
        """Check the file and read all of it. Raises WeightsError."""
        self.manifest = read_manifest(weights_file)
        shapes = resnet50_shapes(self.manifest["num_classes"])
        # A batch norm's shift takes the place of its bias; its weight and statistics need none.
        kept = (shape for name, shape in shapes.items() if len(shape) > 1 or name.endswith("bias"))
        self.array = np.empty(sum(map(prod, kept)), dtype=np.float32)
        self.tensors, offset = {}, 0
        with safe_open(weights_file, framework="numpy") as file:
            for name, tensor in prepare(file, shapes):
                self.tensors[name] = self.array[offset : offset + tensor.size].reshape(tensor.shape)
                self.tensors[name][...] = tensor
                offset += tensor.size

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Return the tensor `name`, a view of the pool's array; convolutions are (out, kernel_h, kernel_w, in)."""
        return self.tensors[name]
