"""A ResNet-50 in a small file: the kernels of its convolutions as int8, everything else as float32.

Each output channel has a scale of its own, a symmetric one: a weight is its int8 number times the scale
(Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", 2018, section 2.2).
"""

import json
import zipfile
import zlib

import numpy as np

from common.weights_file import ExportError, check_numbers

SCALE = ".scale"  # added to a kernel's name


def quantize(kernel):
    """Return (int8 array of the kernel's shape, float32 scale of each output channel, the first axis)."""
    largest = np.abs(kernel).max(axis=(1, 2, 3))
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(kernel / scale[:, None, None, None]).astype(np.int8), scale


def pack(tensors, labels, size, path):
    """Write {state-dict name: float32 array in PyTorch's layout}, the class names, and the side of the pictures.

    Raises ExportError if a tensor holds NaN or infinity, which int8 cannot show.
    """
    check_numbers(tensors)
    arrays = {}
    for name, array in tensors.items():
        if array.ndim == 4:
            arrays[name], arrays[name + SCALE] = quantize(array)
        else:
            arrays[name] = array
    np.savez_compressed(path, description=json.dumps({"labels": labels, "size": size}), **arrays)


def unpack(path):
    """Return what `pack` was given: (tensors, labels, size). Raises ExportError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            description = json.loads(str(arrays["description"]))
            tensors = {name: arrays[name] for name in arrays.files if name != "description"}
        for name in [name for name in tensors if name.endswith(SCALE)]:
            scale = tensors.pop(name)[:, None, None, None]
            tensors[name.removesuffix(SCALE)] = tensors[name.removesuffix(SCALE)] * scale
        return tensors, description["labels"], description["size"]
    except FileNotFoundError:
        raise ExportError(f"there is no {path}") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ExportError(f"{path} is no packed ResNet-50, or a damaged one ({error})") from None
