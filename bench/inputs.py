"""What every experiment runs on: weights, a picture, and the logits that are right for the two."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bench.reference import reference_logits
from common.architecture import flops
from common.versions import ROOT

WEIGHTS = ROOT / "weights" / "resnet50.safetensors"
SYNTHETIC = ROOT / "weights" / ".synthetic.safetensors"  # beside the user's own, which a benchmark must not make up


class InputError(Exception):
    """The benchmark cannot begin. The message is one line."""


class Inputs(NamedTuple):
    weights: Path
    size: int
    image: NDArray[np.float32]  # (size, size, 3)
    logits: NDArray[np.float64]  # (num_classes,)
    flops: int  # operations of one picture, convolutions computed as they are defined; a multiply-add counts as two


def make_inputs(size: int = 224, weights: Path | None = None) -> Inputs:
    """Return the weights `weights`, else the exported ones, else synthetic ones, a picture, and the right logits.

    Timing does not depend on the values. Raises InputError if the weights cannot be used.
    """
    chosen = weights or (WEIGHTS if WEIGHTS.is_file() else SYNTHETIC)
    if chosen == SYNTHETIC and not SYNTHETIC.is_file():
        export = [sys.executable, ROOT / "common" / "export_weights.py", "synthetic", "--out", SYNTHETIC]
        made = subprocess.run(export, capture_output=True, text=True)
        if made.returncode:
            raise InputError(made.stderr.strip().split("\n")[-1])
    image = picture(size)
    try:
        logits = reference_logits(chosen, image)
    except (OSError, SafetensorError) as error:
        remedy = "name others with --weights, or move the file away and random ones are made"
        raise InputError(f"weights in {chosen}: {error}; {remedy}") from None
    return Inputs(chosen, size, image, logits, flops(size, len(logits)))


def source(weights: Path) -> str:
    """Where the weights are from, as their manifest says."""
    with safe_open(weights, framework="numpy") as file:
        return json.loads(file.metadata()["manifest"])["source"]


def picture(size: int) -> NDArray[np.float32]:
    """The benchmark's picture, (size, size, 3) float32: noise with a picture's statistics after normalisation."""
    return np.random.default_rng(0).standard_normal((size, size, 3), dtype=np.float32)
