"""What every experiment runs on: weights, a picture, and the logits that are right for the two."""

import json
import os
import subprocess
import sys

import numpy as np

from bench.reference import reference_logits
from common.versions import ROOT

WEIGHTS = ROOT / "weights" / "resnet50"
SYNTHETIC = ROOT / "weights" / ".synthetic"  # beside the user's own, which a benchmark must not make up


class InputError(Exception):
    """The weights cannot be used. The message is one line."""


def weights_directory(chosen=None):
    """Return the directory `chosen`, else the exported weights, else synthetic ones, made on first use.

    Timing does not depend on the values. Raises InputError if there are no weights there.
    """
    directory = chosen or (WEIGHTS if (WEIGHTS / "manifest.json").is_file() else SYNTHETIC)
    if not chosen and not (directory / "manifest.json").is_file():
        command = [sys.executable, str(ROOT / "common" / "export_weights.py"), "synthetic", "--out", str(directory)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise InputError(made.stderr.strip().split("\n")[-1])
    source(directory)
    return directory


def source(weights_dir):
    """Where the weights are from, as their manifest says."""
    try:
        return json.loads((weights_dir / "manifest.json").read_text())["source"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"no exported weights in {weights_dir} ({error}); make some: "
                         f"python common/export_weights.py synthetic --out {weights_dir}") from None


def picture(size):
    """The benchmark's picture, (size, size, 3) float32: noise with a picture's statistics after normalisation."""
    return np.random.default_rng(0).standard_normal((size, size, 3), dtype=np.float32)


def reference(weights_dir, image):
    """The right logits, (num_classes,) float64. Raises InputError if the weights are damaged."""
    try:
        return reference_logits(weights_dir, image)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"weights in {weights_dir}: {error}") from None


def available_cores():
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
