"""Calibration: which real numbers the bytes of each activation stand for.

A byte q stands for scale * (q - zero). The float32 network looks at a few pictures; the range of what a step gives out
becomes the scale of its bytes. No labels are needed, and no training.

The scales are kept beside the compiled code, in one file for each weights file and picture size. They stay in force
until this code or the default pictures change, or a user names other pictures.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from compiler import cache_directory
from image import ImageError, load_image
from ops import ZERO, conv2d, fully_connected, max_pool, quantize, subsample
from weights import WeightsError, prepare, read_manifest

PICTURES = Path(__file__).resolve().with_name("pictures")
MANY = 256  # more pictures than that are thinned out: each takes a quarter of a second
PERCENTILE = 99.99  # of a step's numbers lie within its range; the rest is clamped, so that a few do not stretch it
LARGEST = 127  # byte
SMALLEST = 1e-12  # range; below that a step gave nothing but zeros, which say nothing of its range

Scales = dict[str, tuple[float, int]]  # the scale and the zero of each step's output, by the step's name


class CalibrationError(ValueError):
    """Pictures that cannot be used for calibration; the message is one line that names them."""


def calibrate(
    weights_file, steps: list, image_size: int, pictures: str | Path | None, cache: bool, threads: int = 1
) -> Scales:
    """Return the scales of all steps' outputs, made anew or kept from before.

    pictures: a directory of them, in force from now on for these weights; those in force unless given.
    threads: how many pictures to look at side by side.
    Raises CalibrationError for bad pictures, WeightsError for weights that give numbers which are not finite.
    """
    directory = cache_directory() if cache and os.environ.get("RESNET50_CACHE") != "" else None
    file = directory / f"{fingerprint(weights_file, image_size)}.json" if directory else None
    kept = read(file, steps)
    if kept and pictures is None and kept["pictures"] is not None:
        print(f"note: calibrated with the pictures in {kept['pictures']}; "
              f"--calibrate {PICTURES} returns to the default", file=sys.stderr)  # fmt: skip
        return kept["scales"]
    chosen = find_pictures(Path(pictures or PICTURES).resolve())
    named = None if pictures is None or Path(pictures).resolve() == PICTURES else str(Path(pictures).resolve())
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in chosen)).hexdigest()
    if not kept or kept["digest"] != digest or kept["pictures"] != named:
        scales = measure(weights_file, steps, image_size, chosen, threads)
        kept = {"pictures": named, "digest": digest, "scales": scales}
        write(file, kept)
    return kept["scales"]


def fingerprint(weights_file, image_size):
    """Return a name for all that scales depend on, but the pictures.

    The number of BLAS's threads is part of it: sums of float32 in another order differ in a last digit.
    """
    sources = (Path(__file__).with_name(f"{name}.py").read_bytes() for name in ("calibration", "image", "weights"))
    with open(weights_file, "rb") as file:
        everything = hashlib.file_digest(file, "sha256")
    blas = [np.__version__, *(f"{key}={value}" for key, value in sorted(os.environ.items()) if "_NUM_THREADS" in key)]
    for part in (*sources, f"{image_size} {PERCENTILE} {LARGEST} {ZERO} {blas}".encode()):
        everything.update(hashlib.sha256(part).digest())
    return f"scales-{everything.hexdigest()[:32]}"


def read(file, steps):
    """Return what `write` wrote, or None if it is not there, damaged, or of other steps."""
    try:
        checksum, text = file.read_text().split("\n", 1)
        kept = json.loads(text)
        return kept if int(checksum) == crc32(text.encode()) and kept["scales"].keys() == {*measured(steps)} else None
    except (AttributeError, OSError, ValueError):
        return None


def write(file, kept):
    text = json.dumps(kept)
    if file:
        partial = file.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):  # a full disk: this network has its scales all the same
            partial.write_text(f"{crc32(text.encode())}\n{text}")
            partial.replace(file)


def find_pictures(directory: Path) -> list[Path]:
    suffixes = Image.registered_extensions()
    found = sorted(path for path in directory.glob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not found:
        raise CalibrationError(f"{directory}: no directory with pictures to calibrate with")
    return found[:: -(-len(found) // MANY)]


def measured(steps):
    """Return {name: step} of the steps whose output has a scale of its own."""
    return {step.name: step for step in steps if step.weight_size and step.operator is not fully_connected}


def measure(weights_file, steps: list, image_size: int, pictures: list[Path], threads: int) -> Scales:
    """Run the float32 network on all pictures; the largest range of each step's output becomes its scale."""
    preprocessing = read_manifest(weights_file)["preprocessing"]
    resize = round(preprocessing["resize"] * image_size / preprocessing["crop"])
    preprocessing |= {"resize": resize, "crop": image_size}
    with safe_open(weights_file, framework="numpy") as file, np.errstate(all="ignore"):  # `record` looks for the result
        weights = {
            step.name: [part.astype(np.float32) for part in prepare(file, step)] for step in steps if step.has_weights
        }
    ranges = dict.fromkeys(measured(steps), 0.0)

    reading = Lock()  # `load_image` catches warnings, which only one thread may do at a time

    def look(path):
        """Return what one picture makes larger."""
        larger = {}

        def record(step, output):
            size = abs(output)
            if not np.isfinite(size.max()):
                raise WeightsError(f"{weights_file} cannot be used ({step.name} gives numbers that are not finite)")
            if step.name in ranges and beyond(size, ranges[step.name]):
                larger[step.name] = float(np.percentile(size, PERCENTILE))

        try:
            with reading:
                image = load_image(path, preprocessing)
        except ImageError as error:
            raise CalibrationError(f"no calibration: {error}") from None
        with np.errstate(all="ignore"):
            forward(steps, weights, image, record)
        return larger

    with ThreadPoolExecutor(threads) as pool:  # NumPy works outside of Python's lock
        for larger in pool.map(look, pictures):
            ranges.update({name: max(found, ranges[name]) for name, found in larger.items()})
    zeros = {step.name: step.zero for step in steps}
    ranges = {name: found if found > SMALLEST else LARGEST for name, found in ranges.items()}
    return {name: (found / (LARGEST - zeros[name]), zeros[name]) for name, found in ranges.items()}


def beyond(size, known):
    """Whether the percentile can lie beyond a range that is known already; counting takes a tenth of finding it."""
    return np.count_nonzero(size > known) >= (1 - PERCENTILE / 100) * (size.size - 1)


def forward(steps: list, weights: dict, image: NDArray[np.float32], record: Callable) -> NDArray[np.float32]:
    """Return the float32 network's logits, plainly, as version 2 does; record(step, output) is called for each step."""
    arrays = {steps[0].x: image}  # what each buffer would hold, (height, width, channels)
    for step in steps:
        x, arguments = arrays[step.x], step.arguments
        if step.operator in (conv2d, fully_connected):
            y = convolve(x, *weights[step.name], arguments.get("stride", 1), arguments.get("padding", 0))
            y = y + arrays[step.out] if arguments.get("add") else y
            y = np.maximum(y, 0) if arguments.get("relu") else y
        elif step.operator is max_pool:
            y = windows(x, **arguments).max(axis=(2, 3))
        elif step.operator is subsample:
            y = x[:: arguments["stride"], :: arguments["stride"]]
        else:
            y = x if step.operator is quantize else x.mean(axis=(0, 1), keepdims=True)
        arrays[step.out] = y
        record(step, y)
    return y.ravel()


def convolve(x, weight, bias, stride, padding):
    out_channels, kernel, _, _ = weight.shape
    columns = windows(x, kernel, stride, padding)
    height, width = columns.shape[:2]
    product = columns.reshape(height * width, -1) @ weight.reshape(out_channels, -1).T + bias
    return product.reshape(height, width, out_channels)


def windows(x, kernel, stride, padding):
    """Return the kernel x kernel neighbourhood of each output pixel, (height, width, kernel, kernel, channels)."""
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    every = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(0, 1))[::stride, ::stride]
    return every.transpose(0, 1, 3, 4, 2)
