"""Digits to train on: scikit-learn's, MNIST's idx files, one .npz, or torchvision's download."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from digit import IMAGE_SIZE, centre_digit
from PIL import Image

TEST_SHARE = 0.2
SPLIT_SEED = 0  # not --seed: runs with different seeds are judged on the same held-out digits
EDGE = 3  # slope of the ink around one half: 1 leaves the enlarged digits as blurred as they are
IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


class DataError(Exception):
    """The data set cannot be had, or is not one of digits."""


@dataclass(frozen=True)
class Digits:
    """Images are (n, 28, 28) uint8, light ink on black; labels are (n,) int64 in 0..9."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits(source=None, download_to=None):
    """The data set that `--data` names: None, "download", a directory of idx files, or an .npz. Raises DataError.

    Where the source has no test set of its own, a fifth of every class is held out.
    """
    if source is None:
        return split("scikit-learn digits", *sklearn_digits())
    if str(source) == "download":
        return read_idx_directory(download(Path(download_to)))
    path = Path(source)
    if path.is_dir():
        return read_idx_directory(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or directory")
    return split(path.name, *read_npz(path))


def split(name, images, labels):
    """Hold out `TEST_SHARE` of every class, the same digits each time."""
    from sklearn.model_selection import train_test_split

    try:
        train_images, test_images, train_labels, test_labels = train_test_split(
            images, labels, test_size=TEST_SHARE, stratify=labels, random_state=SPLIT_SEED
        )
    except ValueError as error:
        raise DataError(f"{name}: too few digits to hold out a fifth of every class ({error})") from None
    return Digits(name, train_images, train_labels, test_images, test_labels)


def sklearn_digits():
    """The 1,797 digits that scikit-learn ships, brought to MNIST's form.

    They are 8x8 pixels of 17 levels: how much of a 4x4 block of the scanned bitmap was ink. Enlarged smoothly and
    steepened around one half, the levels give most of the bitmap's edge back, so that strokes are as sharp as
    MNIST's and a network trained on these reads other pictures too.
    """
    from sklearn.datasets import load_digits as bundled

    digits = bundled()
    pictures = []
    for levels in (digits.images / 16).astype(np.float32):
        enlarged = Image.fromarray(np.pad(levels, 1)).resize((40, 40), Image.Resampling.BICUBIC)
        pictures.append(centre_digit(np.clip(EDGE * (np.asarray(enlarged) - 0.5) + 0.5, 0, 1)))
    return np.stack(pictures), digits.target.astype(np.int64)


def check(name, images, labels):
    """Labels as int64, after making sure that these are digits. Raises DataError."""
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise DataError(f"{name}: images are {images.dtype} {images.shape}, expected uint8 (n, 28, 28)")
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{name}: labels are {labels.dtype} {labels.shape}, expected {len(images)} integers")
    if len(labels) == 0 or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{name}: labels must be digits 0 to 9, at least one")
    return labels.astype(np.int64)


def read_npz(path):
    """`images` (n, 28, 28) uint8 and `labels` (n,) of an .npz -> (images, labels). Raises DataError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except Exception as error:  # zipfile, zlib, NumPy's header parser …: a foreign file can raise nearly anything
        raise DataError(f"{path}: not an .npz with images and labels ({error})") from None
    return images, check(path, images, labels)


def read_idx_directory(directory):
    """The four files of MNIST, gzipped or not, in `directory` or where torchvision puts them below it."""
    arrays = {}
    for key, name in IDX_FILES.items():
        spellings = [name, name.replace("-idx", ".idx")]
        places = [directory, directory / "raw", directory / "MNIST" / "raw"]
        candidates = [place / (spelling + end) for place in places for spelling in spellings for end in ("", ".gz")]
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            raise DataError(f"{directory}: no {name} or {name}.gz")
        arrays[key] = read_idx(path)
    for part in ("train", "test"):
        labels = check(f"{directory} ({part})", arrays[f"{part}_images"], arrays[f"{part}_labels"])
        arrays[f"{part}_labels"] = labels
    return Digits("MNIST", **arrays)


def read_idx(path):
    """One idx file of unsigned bytes -> a uint8 array. Raises DataError.

    The format: two zero bytes, the type (8: unsigned byte), the number of dimensions, every dimension as a
    big-endian 32-bit integer, then the data.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise DataError(f"{path}: not an idx file of unsigned bytes")
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4).tolist()
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if np.prod(shape, dtype=object) != data.size:
        raise DataError(f"{path}: {data.size} bytes of data for shape {tuple(shape)}; fetch it again")
    return data.reshape(shape)


def download(directory):
    """Have torchvision download MNIST below `directory`, and return the directory. Raises DataError."""
    try:
        from torchvision.datasets import MNIST

        MNIST(directory, download=True)
    except ImportError:
        raise DataError("--data download needs torchvision: pip install torch torchvision") from None
    except Exception as error:  # torchvision raises RuntimeError, URLError, OSError … for the same causes
        raise DataError(
            f"torchvision could not download MNIST ({error}); fetch the four idx files and give their directory"
        ) from None
    return directory
