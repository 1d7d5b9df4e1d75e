"""The weights directory: one .npy file a tensor and a manifest.json, written so that no reader sees half of it.

An export is built in a hidden sibling, `.NAME.partial`, and renamed. A replaced one waits as `.NAME.old` for the
moment between the two renames. `.NAME.lock` keeps a second exporter out; the kernel drops the lock of a killed
process, so whoever holds it may tidy what an earlier one left: a partial copy is deleted, and an old one whose
successor never came is put back.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np

from common.architecture import check_shapes, expected_shapes
from common.errors import ExportError

FORMAT = 1
MANIFEST = "manifest.json"
SMALLEST_CROP = 32  # below this, layer4 has nothing left to look at


def write_weights(out, tensors, *, source, labels, preprocessing, force=False):
    """Write {state-dict name: array in PyTorch's layout} as the weights directory `out`, all of it or nothing.

    source: what the weights are, in a few words. labels: one class name per row of fc.weight. preprocessing:
    {"resize", "crop", "interpolation", "mean", "std"}. An intact export is replaced only with force, a damaged one
    always, and a directory that holds anything else never. Raises ExportError; `out` is then as it was before.
    """
    out = Path(out).resolve()
    num_classes = check_shapes({name: array.shape for name, array in tensors.items()})
    check_finite(tensors)
    check_labels(labels, num_classes)
    check_preprocessing(preprocessing)
    try:
        with _locked(out):
            refuse_to_replace(out, force)
            manifest = {"format": FORMAT, "source": source, "num_classes": num_classes, "labels": list(labels),
                        "preprocessing": preprocessing, "tensors": {}}
            _write_partial(_sibling(out, "partial"), tensors, manifest)
            _swap(out)
    except OSError as error:
        where = error.filename or out
        raise ExportError(f"cannot write the weights: {where}: {error.strerror or error}. What {out} held before "
                          "is untouched") from None


def refuse_to_replace(out, force):
    """Raise ExportError if `out` holds something else than weights, or intact weights and force is not set."""
    out = Path(out).resolve()
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise ExportError(f"{out} is a file, and weights are a directory: choose another --out")
    ours = {f"{name}.npy" for name in expected_shapes(1)} | {MANIFEST}
    foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in ours)
    if foreign:
        raise ExportError(f"{out} holds {foreign[0]}, which is no part of exported weights: choose another --out")
    if not force and (manifest := intact(out)):
        raise ExportError(f"{out} already holds intact weights ({manifest['source']}); --force replaces them")


def intact(out):
    """Return the manifest of the weights in `out` if every file is there and has its checksum, else None."""
    try:
        manifest = json.loads((Path(out) / MANIFEST).read_text(encoding="utf-8"))
        tensors = manifest["tensors"]
        if manifest["format"] != FORMAT or set(tensors) != set(expected_shapes(1)):
            return None
        for name, entry in tensors.items():
            if hashlib.sha256((Path(out) / f"{name}.npy").read_bytes()).hexdigest() != entry["sha256"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest


def check_finite(tensors):
    """Raise ExportError naming the first tensor that holds NaN, infinity, or a variance below zero."""
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise ExportError(f"{name} holds NaN or infinity (or a number beyond float32)")
        if name.endswith("running_var") and (array < 0).any():
            raise ExportError(f"{name} holds a negative variance")


def check_labels(labels, num_classes):
    """Raise ExportError unless there is one label per class."""
    if len(labels) != num_classes:
        raise ExportError(f"there are {len(labels)} labels for {num_classes} classes; give one per class")


def check_preprocessing(preprocessing):
    """Raise ExportError unless pictures can be resized, cropped and normalised as `preprocessing` says."""
    resize, crop = preprocessing["resize"], preprocessing["crop"]
    mean, std = preprocessing["mean"], preprocessing["std"]
    if crop < SMALLEST_CROP:
        raise ExportError(f"crop is {crop}; it must be {SMALLEST_CROP} or more")
    if crop > resize:
        raise ExportError(f"crop {crop} is larger than resize {resize}: the crop is cut from the resized picture")
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, [*mean, *std])):
        raise ExportError("mean and std must be three finite numbers each: red, green, blue")
    if min(std) <= 0:
        raise ExportError(f"std is {' '.join(map(str, std))}; each must be above 0, for pixels are divided by it")


def _sibling(out, role):
    return out.with_name(f".{out.name}.{role}")


@contextlib.contextmanager
def _locked(out):
    """Hold the only right to write `out`; tidy before, what a killed exporter left, and after."""
    out.parent.mkdir(parents=True, exist_ok=True)
    path = _sibling(out, "lock")
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another export to {out}", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(os.fstat(handle), os.stat(path)):
            break
        os.close(handle)  # the last holder deleted the file while this process waited for it
    try:
        _tidy(out)
        yield
    finally:
        _tidy(out)
        path.unlink()
        os.close(handle)


def _tidy(out):
    """Delete a partial export; put an old one back if nothing took its place, else delete it."""
    old = _sibling(out, "old")
    if old.exists() and not out.exists():
        old.rename(out)
    for leftover in (_sibling(out, "partial"), old):
        if leftover.exists():
            shutil.rmtree(leftover)


def _write_partial(partial, tensors, manifest):
    """Write the tensors, then the manifest that lists them, and wait until all of it is on the disk."""
    partial.mkdir()
    for name in expected_shapes(manifest["num_classes"]):
        stored = _stored(tensors[name])
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, stored, version=(1, 0), allow_pickle=False)
        content = buffer.getvalue()
        _write_file(partial / f"{name}.npy", content)
        manifest["tensors"][name] = {"shape": list(stored.shape), "sha256": hashlib.sha256(content).hexdigest()}
    _write_file(partial / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n")
    _sync(partial)


def _stored(array):
    """The array as files hold it: little-endian float32, contiguous; (out, in, kh, kw) as (out, kh, kw, in)."""
    if array.ndim == 4:
        array = array.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(array, dtype="<f4")


def _write_file(path, content):
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory):
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(out):
    """Move the finished partial export to `out`. Should this stop halfway, _tidy puts the old one back."""
    if out.exists():
        out.rename(_sibling(out, "old"))
    _sibling(out, "partial").rename(out)
    _sync(out.parent)
