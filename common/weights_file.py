"""The weights file: one safetensors file with every tensor and a manifest, written whole or not at all.

The format is described in weights/README.md. The versions read it with their own weights.py.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from common.architecture import tensor_shapes

FORMAT = 2
SMALLEST_CROP = 32  # pixels; layer4 sees a picture at 1/32 of its size
NAMES_SHOWN = 3  # of the tensors that do not fit
IMAGENET_V1 = {  # how pictures are prepared for torchvision's IMAGENET1K_V1
    "resize": 256,
    "crop": 224,
    "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


class ExportError(Exception):
    """What stopped an export and what mends it, in one line for the user."""


def write_weights(
    out: str | Path,
    tensors: Mapping[str, NDArray[np.float32]],
    *,
    source: str,
    labels: Sequence[str],
    preprocessing: Mapping[str, Any],
    note: str = "",
    force: bool = False,
) -> None:
    """Write a state dict, in PyTorch's layout, as the weights file `out`.

    source: what the weights are, in a few words. labels: one class name per row of fc.weight. preprocessing: a
    dictionary with the keys of IMAGENET_V1. note: a line that infer.py shows before the predictions. A file that is
    already there is replaced only with force. Raises ExportError; `out` then is as it was.
    """
    out = Path(out).resolve()  # a symbolic link stays one
    num_classes = check_shapes({name: array.shape for name, array in tensors.items()})
    check_numbers(tensors)
    check_labels(labels, num_classes)
    check_preprocessing(preprocessing)
    refuse_to_replace(out, force)
    manifest = {"format": FORMAT, "source": source, "num_classes": num_classes, "labels": list(labels)}
    manifest |= {"preprocessing": dict(preprocessing)} | ({"note": note} if note else {})
    stored = {name: array.transpose(0, 2, 3, 1) if array.ndim == 4 else array for name, array in tensors.items()}
    stored = {name: np.ascontiguousarray(array, np.float32) for name, array in stored.items()}
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Not save_file: what that writes, other users of the machine may not read.
        partial.write_bytes(save(stored, {"manifest": json.dumps(manifest)}))
        os.replace(partial, out)
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror}; what was there is untouched") from None
    finally:
        partial.unlink(missing_ok=True)


def refuse_to_replace(out: Path, force: bool) -> None:
    """Raise ExportError if `out` is a directory, or a file and force is not set."""
    if out.is_dir():
        raise ExportError(f"{out} is a directory, and weights are one file: choose another --out")
    if out.exists() and not force:
        manifest = intact(out)
        if not manifest:
            own = "a checkpoint of your own is converted by: python common/export_weights.py checkpoint FILE --out NEW"
            raise ExportError(f"{out} holds no intact weights; --force replaces it ({own})")
        raise ExportError(f"{out} already holds intact weights ({manifest['source']}); --force replaces it")


def intact(out: str | Path) -> dict[str, Any] | None:
    """Return the manifest of a weights file whose names, shapes, dtypes and manifest agree, else None."""
    try:
        with safe_open(out, framework="numpy") as file:
            manifest = json.loads(file.metadata()["manifest"])
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {name: (tensor.get_dtype(), *tensor.get_shape()) for name, tensor in slices.items()}
        check_labels(manifest["labels"], manifest["num_classes"])
        check_preprocessing(manifest["preprocessing"])
        shapes = tensor_shapes(manifest["num_classes"]).items()
        expected = {name: ("F32", *stored_shape(shape)) for name, shape in shapes}
        if manifest["format"] == FORMAT and isinstance(manifest["source"], str) and found == expected:
            return manifest
    except Exception:  # whatever a damaged manifest holds in place of these fields, it is not intact
        pass
    return None


def stored_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in the file of a tensor's shape in PyTorch: a convolution's input channels come last."""
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape


def check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the number of classes of {name: PyTorch shape} if it is a ResNet-50's; else raise ExportError.

    The error names the first tensors that are missing, have another shape, or have no place in the network.
    """
    num_classes = (tuple(shapes.get("fc.bias", ())) or (1000,))[0]
    expected = tensor_shapes(num_classes)
    faults = [f"{name} is missing" for name in expected if name not in shapes]
    faults += [f"{name} is not part of it" for name in shapes if name not in expected]
    faults += [f"{name} is {tuple(shapes[name])}, not {shape}" for name, shape in expected.items()
               if name in shapes and tuple(shapes[name]) != shape]  # fmt: skip
    if faults:
        more = f"; and {len(faults) - NAMES_SHOWN} more" if len(faults) > NAMES_SHOWN else ""
        raise ExportError(f"not a ResNet-50: {'; '.join(faults[:NAMES_SHOWN])}{more}")
    return num_classes


def check_numbers(tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Raise ExportError naming the first tensor that holds NaN, infinity, or a variance below zero."""
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise ExportError(f"{name} holds NaN, infinity or a number that float32 cannot hold")
        if name.endswith("running_var") and (array < 0).any():
            raise ExportError(f"{name} holds a variance below zero")


def check_labels(labels: Sequence[str], num_classes: int) -> None:
    """Raise ExportError unless there is one label, a text that is not empty, per class."""
    if len(labels) != num_classes:
        raise ExportError(f"{len(labels)} labels for {num_classes} classes: there must be one for each")
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label:
            raise ExportError(f"label {index} is {label!r}, where a class name is needed")


def check_preprocessing(preprocessing: Mapping[str, Any]) -> None:
    """Raise ExportError unless pictures can be resized, cropped and normalised as `preprocessing` says."""
    resize, crop, mean, std = (preprocessing[key] for key in ("resize", "crop", "mean", "std"))
    if not (isinstance(crop, int) and isinstance(resize, int) and SMALLEST_CROP <= crop <= resize):
        raise ExportError(f"crop {crop} and resize {resize} must be whole numbers, {SMALLEST_CROP} <= crop <= resize")
    if len(mean) != 3 or not all(0 <= value <= 1 for value in mean):
        raise ExportError(f"mean {mean} must be three numbers from 0 to 1, the range of the pixels")
    if len(std) != 3 or not all(1e-6 <= value <= 1e6 for value in std):
        raise ExportError(f"std {std} must be three numbers above 0")
