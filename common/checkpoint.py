"""A user's own ResNet-50: a state dict from a .pth or .safetensors file, as float32 arrays. Nothing needs PyTorch."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from common.pth import BFLOAT16, SAVE, load_pth, to_float32
from common.weights_file import ExportError, check_shapes

WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the state dict
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": BFLOAT16, "I64": "<i8"}


def checkpoint(file: Path) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a ResNet-50 checkpoint, in torchvision's names and layout, as float32 arrays.

    The state dict may be wrapped under one of WRAPPERS, its names may begin with a prefix, and its numbers may be
    of any floating-point type. Nothing in the file is executed. Raises ExportError naming the file.
    """
    if not file.exists():
        raise ExportError(f"there is no file {file}")
    try:
        tensors = _state_dict(_load_safetensors(file) if file.suffix == ".safetensors" else load_pth(file))
        check_shapes({name: getattr(tensor, "shape", ()) for name, tensor in tensors.items()})
        if sum(math.prod(tensor.shape) for tensor in tensors.values()) > file.stat().st_size:
            raise ExportError("its tensors hold more numbers than it has bytes: they are views of the same few")
        return {name: np.asarray(tensor) for name, tensor in tensors.items()}
    except ExportError as error:
        raise ExportError(f"{file}: {error}") from None
    except Exception as error:  # zip, pickle and safetensors find damage in many ways
        if isinstance(error, OSError) and error.filename:
            raise ExportError(f"cannot read {file}: {error.strerror}") from None
        reason = f"no PyTorch checkpoint, or a damaged one ({type(error).__name__})"
        raise ExportError(f"{file}: {reason}: {SAVE}") from None


def _load_safetensors(file: Path) -> dict[str, NDArray[np.float32]]:
    with safetensors.safe_open(file, framework="numpy") as opened:
        if "manifest" in (opened.metadata() or {}):
            raise ExportError(f"an export already, which infer.py reads as it is: --weights {file}")
    return {name: to_float32(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in safetensors.deserialize(file.read_bytes())
            if not name.endswith("num_batches_tracked")}  # fmt: skip


def _state_dict(content: Any) -> Mapping[str, Any]:
    """Return {name: tensor} of what a checkpoint holds, without wrapper, prefix and training's counters."""
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not any(hasattr(value, "shape") for value in content.values()):
        raise ExportError(f"holds no state dict: {SAVE}")
    if not all(str(name).isprintable() and len(str(name)) < 200 for name in content):
        raise ExportError(f"holds names that cannot be printed: {SAVE}")
    # DataParallel wraps a model under the name `module`, torch.compile under `_orig_mod`, Lightning under `model`.
    known = "layer1.0.conv1.weight"
    prefix = next((str(name).removesuffix(known) for name in content if str(name).endswith(known)), "")
    names = {str(name).removeprefix(prefix): tensor for name, tensor in content.items()}
    return {name: tensor for name, tensor in names.items() if not name.endswith("num_batches_tracked")}
