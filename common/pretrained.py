"""Weights from PyTorch: torchvision's pretrained ones, or a checkpoint of the user's own.

The only module of the exporter that needs PyTorch. It builds no model: a state dict is read, checked against
ResNet-50's shapes and turned into float32 arrays.
"""

import argparse
import hashlib
import http.client
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

_schemas = []  # keeps the declarations alive


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
        return _import_torchvision()
    except RuntimeError as error:
        if str(error) != "operator torchvision::nms does not exist":
            raise ExportError(f"torchvision cannot be imported ({_first_line(error)}): {INSTALL}") from None
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _schemas.append(library)
    return _import_torchvision()


def _import_torchvision():
    try:
        import torchvision.models
    except ImportError as error:
        raise ExportError(f"this needs torchvision, and it cannot be imported ({error}): {INSTALL}") from None
    return torchvision


def pretrained(tag: str) -> tuple[dict[str, NDArray[np.float32]], list[str], dict[str, Any]]:
    """Return (tensors, labels, preprocessing) of torchvision's ResNet50_Weights[tag]."""
    weights = import_torchvision().models.ResNet50_Weights[tag]
    preset = weights.transforms()
    preprocessing = {
        "resize": preset.resize_size[0],
        "crop": preset.crop_size[0],
        "interpolation": preset.interpolation.value,
        "mean": preset.mean,
        "std": preset.std,
    }
    return to_arrays(_download(weights)), weights.meta["categories"], preprocessing


def _download(weights):
    """Return the state dict of a torchvision weights entry, from torch.hub's cache or the network."""
    cached = Path(import_torch().hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    # torch.hub trusts what is in its cache; the name holds the first digits of the hash.
    if cached.exists() and not hashlib.sha256(cached.read_bytes()).hexdigest().startswith(
        cached.stem.rpartition("-")[2]
    ):
        raise ExportError(f"{cached} is damaged: delete it, and run this again to download it anew")
    socket_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        return weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        raise ExportError(
            f"cannot fetch {weights.url} ({_first_line(error)}). Without network here: download that address "
            f"elsewhere, save it as {cached}, and run this again"
        ) from None
    finally:
        socket.setdefaulttimeout(socket_timeout)


def checkpoint(file: str | Path) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a ResNet-50 checkpoint, in torchvision's names and layout, as float32 arrays.

    The state dict may be wrapped under one of WRAPPERS, its names may begin with `module.`, and its numbers
    may be of any floating-point type. Nothing in the file is executed. Raises ExportError naming the file.
    """
    torch = import_torch()
    try:
        return to_arrays(_state_dict(torch, _load(torch, Path(file))))
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
        found = re.search(r"GLOBAL (\S+)", str(error))
        fault = (
            f"holds Python objects ({found[1]}), and those are never loaded"
            if found
            else f"no PyTorch checkpoint, or a damaged one ({type(error).__name__})"
        )
        raise ExportError(f"{fault}: {SAVE}") from None


def _state_dict(torch, content):
    """Return {name: tensor} from what a checkpoint holds, without wrapper and without `module.`."""
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not any(map(torch.is_tensor, content.values())):
        raise ExportError(f"holds no state dict: {SAVE}")
    prefix = "module."  # torch.nn.DataParallel wraps the model under this name
    if all(str(name).startswith(prefix) for name in content):
        content = {name.removeprefix(prefix): value for name, value in content.items()}
    return content


def to_arrays(state_dict: dict) -> dict[str, NDArray[np.float32]]:
    """Turn a ResNet-50's {name: tensor} into arrays; ExportError names those that do not fit."""
    kept = {str(key): tensor for key, tensor in state_dict.items() if not str(key).endswith("num_batches_tracked")}
    check_shapes({name: getattr(tensor, "shape", ()) for name, tensor in kept.items()})
    return {name: tensor.detach().float().numpy() for name, tensor in kept.items()}


def _first_line(error):
    return str(error).strip().partition("\n")[0] or type(error).__name__
