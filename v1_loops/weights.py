"""The weights file: checked when the model is built; a tensor is read when a layer asks for it."""

import json
import shlex
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


class WeightFile:
    """The tensors of a weights file by name, each read from it every time it is asked for."""

    def __init__(self, weights_file: str | Path):
        """Check the file, so that `forward` need not, and open it. Raises WeightsError."""
        self.manifest = read_manifest(weights_file)
        self.file = safe_open(weights_file, framework="numpy")

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Return the tensor `name`; convolutions are (out, kernel_h, kernel_w, in)."""
        return self.file.get_tensor(name)
