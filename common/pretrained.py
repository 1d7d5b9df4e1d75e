"""Weights from PyTorch: torchvision's pretrained ones, or a checkpoint of the user's own.

The only module of the exporter that needs PyTorch. It builds no model: a state dict is read, checked against
ResNet-50's shapes and turned into float32 arrays.
"""

import argparse
import re
import socket
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

import numpy as np
from numpy.typing import NDArray

from common.weights_file import ExportError, check_shapes

INSTALL = "run `make weights`, or `pip install torch==2.13.0 torchvision==0.28.0`"
SAVE = "save your model with torch.save(model.state_dict(), FILE)"
TIMEOUT = 30  # seconds without a byte before a download counts as failed; by default it would wait for ever
WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the state dict

_declared = []  # keeps the declarations of operators alive


def import_torch() -> ModuleType:
    """Return the module torch; ExportError if it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise ExportError(f"this needs PyTorch, and it cannot be imported ({error}): {INSTALL}") from None
    return torch


def import_torchvision() -> ModuleType:
    """Return the module torchvision, beside a CPU build of torch too; ExportError if it is not installed.

    torchvision's wheels for Linux are linked against CUDA builds of torch. Beside another build their compiled
    operators do not load, and the import stops at the first one that it looks up, nms. ResNet-50 uses none of
    them, so their schemas are enough. A healthy installation declares its own.
    """
    torch = import_torch()
    try:
        import torchvision.models
    except RuntimeError as error:
        if str(error) != "operator torchvision::nms does not exist":
            raise ExportError(f"torchvision cannot be imported ({_first_line(error)}): {INSTALL}") from None
        _declared.append(torch.library.Library("torchvision", "DEF"))
        for operator in ("nms", "qnms"):
            _declared[-1].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return import_torchvision()
    except ImportError as error:
        raise ExportError(f"this needs torchvision, and it cannot be imported ({error}): {INSTALL}") from None
    return torchvision


def pretrained(tag: str) -> tuple[dict[str, NDArray[np.float32]], list[str], dict[str, Any]]:
    """Return (tensors, labels, preprocessing) of torchvision's ResNet50_Weights[tag].

    They come from torch.hub's cache or the network. Raises ExportError.
    """
    weights = import_torchvision().models.ResNet50_Weights[tag]
    cached = Path(import_torch().hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    socket_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        state_dict = weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # networks, disks and damaged files fail in many ways
        raise ExportError(
            f"cannot fetch {weights.url} ({_first_line(error)}). Without network here: download that address "
            f"elsewhere, save it as {cached}, and run this again"
        ) from None
    finally:
        socket.setdefaulttimeout(socket_timeout)
    preset = weights.transforms()
    sizes = {"resize": preset.resize_size[0], "crop": preset.crop_size[0], "interpolation": preset.interpolation.value}
    return to_arrays(state_dict), weights.meta["categories"], sizes | {"mean": preset.mean, "std": preset.std}


def checkpoint(file: Path) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a ResNet-50 checkpoint, in torchvision's names and layout, as float32 arrays.

    The state dict may be wrapped under one of WRAPPERS, its names may begin with `module.`, and its numbers may be
    of any floating-point type. Nothing in the file is executed. Raises ExportError naming the file.
    """
    torch = import_torch()
    try:
        return to_arrays(_state_dict(torch, _load(torch, file)))
    except OSError as error:
        raise ExportError(f"cannot read {file}: {error.strerror or error}") from None
    except ExportError as error:
        raise ExportError(f"{file}: {error}") from None


def _load(torch, file):
    """Return what a checkpoint holds, tensors and plain containers only."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file  # it needs PyTorch

            return load_file(file)
        # torchvision's own training script keeps its command line beside the state dict, as a Namespace
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # the unpickler fails in as many ways as a file can be damaged
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise ExportError(f"holds Python objects ({found[1]}), and those are never loaded: {SAVE}") from None
        raise ExportError(f"no PyTorch checkpoint, or a damaged one ({type(error).__name__}): {SAVE}") from None


def _state_dict(torch, content):
    """Return {name: tensor} from what a checkpoint holds, without wrapper and without `module.`."""
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not any(map(torch.is_tensor, content.values())):
        raise ExportError(f"holds no state dict: {SAVE}")
    # torch.nn.DataParallel wraps the model under the name `module`.
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def to_arrays(state_dict: dict) -> dict[str, NDArray[np.float32]]:
    """Turn a ResNet-50's {name: tensor} into arrays; ExportError names those that do not fit."""
    kept = {name: tensor for name, tensor in state_dict.items() if not name.endswith("num_batches_tracked")}
    check_shapes({name: getattr(tensor, "shape", ()) for name, tensor in kept.items()})
    return {name: tensor.detach().float().numpy() for name, tensor in kept.items()}


def _first_line(error):
    return str(error).strip().partition("\n")[0] or type(error).__name__
