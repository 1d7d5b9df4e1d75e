"""The weights directory: one .npy file a tensor and a manifest.json, written all at once or not at all.

An export is built in a hidden sibling, `.NAME.partial`, and renamed. A directory that it replaces waits as
`.NAME.old` for the moment between the two renames. `.NAME.lock` keeps a second exporter out; the kernel drops
the lock of a killed process, so whoever holds it may tidy what an earlier one left.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np

from common.architecture import check_shapes, expected_shapes
from common.errors import AlreadyThere, ExportError

FORMAT = 1
MANIFEST = "manifest.json"
SMALLEST_CROP = 32  # layer4 sees a picture at 1/32 of its size
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")  # Pillow's names
IMAGENET_V1 = {"resize": 256, "crop": 224, "interpolation": "bilinear",
               "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # torchvision's IMAGENET1K_V1


def write_weights(out, tensors, *, source, labels, preprocessing, force=False):
    """Write {state-dict name: float32 array in PyTorch's layout} as the weights directory `out`.

    source: what the weights are, in a few words. labels: one class name per row of fc.weight. preprocessing:
    a dictionary with the keys of IMAGENET_V1. Intact weights are replaced only with force, damaged ones
    always, and a directory that holds anything else never. Raises ExportError; `out` then is as it was.
    """
    out = Path(out).resolve()
    num_classes = check_shapes({name: array.shape for name, array in tensors.items()})
    check_numbers(tensors)
    check_labels(labels, num_classes)
    check_preprocessing(preprocessing)
    manifest = {"format": FORMAT, "source": source, "num_classes": num_classes, "labels": list(labels),
                "preprocessing": preprocessing, "tensors": {}}
    try:
        with _locked(out):
            refuse_to_replace(out, force)
            _write_partial(_sibling(out, "partial"), tensors, manifest)
            _swap(out)
    except OSError as error:
        raise ExportError(f"cannot write the weights: {error.filename or out}: {error.strerror or error}; "
                          f"{out} is as it was before") from None


def refuse_to_replace(out, force):
    """Raise ExportError if `out` is something else than weights, or intact weights and force is not set."""
    out = Path(out).resolve()
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"{out} is a file, and weights are a directory: choose another --out")
    ours = {f"{name}.npy" for name in expected_shapes(1)} | {MANIFEST}
    foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in ours)
    if foreign:
        raise ExportError(f"{out} holds {foreign[0]}, which is no part of weights: choose another --out")
    if not force and (manifest := intact(out)):
        raise AlreadyThere(f"{out} already holds intact weights ({manifest.get('source')}): they are kept; "
                           "--force replaces them")


def intact(out):
    """Return the manifest of the weights in `out` if every file is there and has its checksum, else None.

    A manifest of a newer format is returned unchecked: what this exporter cannot judge, it must not replace.
    """
    try:
        manifest = json.loads((Path(out) / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] > FORMAT:
            return manifest
        check_labels(manifest["labels"], manifest["num_classes"])
        check_preprocessing(manifest["preprocessing"])
        shapes = {name: _stored_shape(shape) for name, shape in expected_shapes(manifest["num_classes"]).items()}
        files = manifest["tensors"].items()
        sound = (manifest["format"] == FORMAT and isinstance(manifest["source"], str)
                 and {name: entry["shape"] for name, entry in files} == shapes
                 and all(_sha256((Path(out) / f"{name}.npy").read_bytes()) == entry["sha256"] for name, entry in files))
        return manifest if sound else None
    except Exception:  # whatever a damaged manifest holds in place of these fields, it is not intact
        return None


def check_numbers(tensors):
    """Raise ExportError naming the first tensor that holds NaN, infinity, or a variance below zero."""
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise ExportError(f"{name} holds NaN, infinity or a number that float32 cannot hold")
        if name.endswith("running_var") and (array < 0).any():
            raise ExportError(f"{name} holds a variance below zero")


def check_labels(labels, num_classes):
    """Raise ExportError unless labels is a list of texts, one per class."""
    if not isinstance(labels, (list, tuple)) or not all(isinstance(label, str) for label in labels):
        raise ExportError("the labels must be a list of texts")
    if len(labels) != num_classes:
        raise ExportError(f"{len(labels)} labels for {num_classes} classes: there must be one for each")


def check_preprocessing(preprocessing):
    """Raise ExportError unless pictures can be resized, cropped and normalised as `preprocessing` says."""
    resize, crop = preprocessing["resize"], preprocessing["crop"]
    mean, std = preprocessing["mean"], preprocessing["std"]
    if preprocessing["interpolation"] not in INTERPOLATIONS:
        raise ExportError(f"interpolation {preprocessing['interpolation']!r} is none of {', '.join(INTERPOLATIONS)}")
    if not (isinstance(crop, int) and isinstance(resize, int)):
        raise ExportError(f"crop {crop} and resize {resize} must be whole numbers of pixels")
    if crop < SMALLEST_CROP:
        raise ExportError(f"crop {crop} is too small: it must be {SMALLEST_CROP} or more")
    if crop > resize:
        raise ExportError(f"crop {crop} is larger than resize {resize}, the picture it is cut from")
    if len(mean) != 3 or not all(0 <= value <= 1 for value in mean):
        raise ExportError(f"mean {mean} must be three numbers from 0 to 1, for red, green and blue: that is the "
                          "range of the pixels it is subtracted from")
    if len(std) != 3 or not all(1e-6 <= value <= 1e6 for value in std):
        raise ExportError(f"std {std} must be three numbers above 0, for red, green and blue")


def _sibling(out, role):
    return out.with_name(f".{out.name}.{role}")


@contextlib.contextmanager
def _locked(out):
    """Hold the only right to write `out`, tidying before and after."""
    out.parent.mkdir(parents=True, exist_ok=True)
    path = _sibling(out, "lock")
    handle = _acquire(path, out)
    try:
        _tidy(out)
        try:
            yield
        finally:
            _tidy(out)
    finally:
        path.unlink()
        os.close(handle)


def _acquire(path, out):
    """Open and lock the file `path`, waiting for another exporter if there is one; return its descriptor."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another export to {out}", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)  # its last holder deleted the file while this process waited for it


def _tidy(out):
    """Put the old weights back if nothing took their place; delete them otherwise, and a partial export."""
    old = _sibling(out, "old")
    if old.exists() and not out.exists():
        old.rename(out)
    for leftover in (_sibling(out, "partial"), old):
        if leftover.exists():
            shutil.rmtree(leftover)


def _write_partial(partial, tensors, manifest):
    """Write the tensors, then the manifest that lists them, and wait until all of it is on the disk."""
    partial.mkdir()
    for name, shape in expected_shapes(manifest["num_classes"]).items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, _stored(tensors[name]), version=(1, 0), allow_pickle=False)
        content = buffer.getvalue()
        _write_file(partial / f"{name}.npy", content)
        manifest["tensors"][name] = {"shape": _stored_shape(shape), "sha256": _sha256(content)}
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    _write_file(partial / MANIFEST, text.encode(errors="backslashreplace"))  # a file's name may be no valid text
    _sync(partial)


def _stored(array):
    """The array as its file holds it: little-endian float32; a convolution as (out, kh, kw, in)."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array, dtype="<f4")


def _stored_shape(shape):
    return [shape[0], *shape[2:], shape[1]] if len(shape) == 4 else list(shape)


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


def _write_file(path, content):
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory):
    """Wait until the directory's entries are on the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(out):
    """Move the finished export to `out`. Should this stop halfway, _tidy puts the old one back."""
    if out.exists():
        out.rename(_sibling(out, "old"))
    _sibling(out, "partial").rename(out)
    _sync(out.parent)
