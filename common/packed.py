"""A ResNet-50 in a small file: the kernels of its convolutions as int8, everything else as float32.

Each output channel has a scale of its own, a symmetric one: a weight is its int8 number times the scale
(Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", 2018, section 2.2).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.weights_file import ExportError, check_numbers, check_shapes

SCALE = ".scale"  # added to a kernel's name


def quantize(kernel: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return (int8 array of the kernel's shape, scale of each output channel, the first axis)."""
    largest = np.abs(kernel).max(axis=(1, 2, 3))
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(kernel / scale[:, None, None, None]).astype(np.int8), scale


def pack(tensors: Mapping[str, NDArray[np.float32]], labels: Sequence[str], size: int, path: str | Path) -> None:
    """Write a state dict in PyTorch's layout, the class names, and the side of the pictures.

    Raises ExportError if a tensor holds NaN or infinity, which int8 cannot show.
    """
    check_numbers(tensors)
    arrays = dict(tensors)
    for name, array in tensors.items():
        if array.ndim == 4:
            arrays[name], arrays[name + SCALE] = quantize(array)
    np.savez_compressed(path, description=json.dumps({"labels": labels, "size": size}), **arrays)


def unpack(path: str | Path) -> tuple[dict[str, NDArray[np.float32]], list[str], int]:
    """Return what `pack` was given: (tensors, labels, size). Raises ExportError."""
    if not Path(path).exists():
        raise ExportError(f"there is no file {path}")
    try:
        with np.load(path) as arrays:
            tensors = dict(arrays)
        description = json.loads(str(tensors.pop("description")))
        for name in [name for name in tensors if name.endswith(SCALE)]:
            kernel = name.removesuffix(SCALE)
            tensors[kernel] = tensors[kernel] * tensors.pop(name)[:, None, None, None]
        check_shapes({name: array.shape for name, array in tensors.items()})
        return tensors, description["labels"], description["size"]
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from None
    except Exception as error:  # zip, zlib, NumPy and JSON find damage in many ways
        raise ExportError(f"{path} is no packed ResNet-50, or a damaged one ({type(error).__name__})") from None
