"""Digits in MNIST's form, 28x28, light ink on black: the data sets, and a picture of one digit of your own."""

import gzip
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sklearn.datasets
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from sklearn.model_selection import train_test_split

BOX_SIZE = 20
IMAGE_SIZE = 28
MINIMUM_CONTRAST = 16  # levels of 255 between the paper and the strongest ink; camera noise stays below
STRONG = 0.35  # share of the strongest ink that is surely ink: grain and JPEG's ringing stay below
EDGE = 3  # slope of the ink around one half: 1 leaves the enlarged digits as blurred as they are
MNIST_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"


class Digits(NamedTuple):
    """Images are (n, 28, 28) uint8; labels are (n,) integers 0 to 9."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits(source: str | Path | None, download_to: Path) -> Digits:
    """The data set that `--data` names: None, a directory of MNIST's files, "download", or an .npz.

    Where the source has no test set of its own, a fifth of every class is held out, always the same digits.
    Raises ValueError if there are no such files, or other things in them.
    """
    if source is None:
        return split("scikit-learn digits", *sklearn_digits())
    try:
        if source == "download":
            digits = read_mnist(download(download_to))
        elif Path(source).is_dir():
            digits = read_mnist(Path(source))
        else:
            with np.load(source) as arrays:
                digits = split(Path(source).name, arrays["images"], arrays["labels"])
        for images, labels in (digits[1:3], digits[3:5]):
            if images.dtype != np.uint8 or images.shape != (len(labels), IMAGE_SIZE, IMAGE_SIZE):
                raise ValueError(f"{images.dtype} {images.shape} for {len(labels)} pictures of 28x28, uint8")
            if labels.dtype.kind not in "iu" or not set(labels.tolist()) <= set(range(10)):
                raise ValueError("labels must be digits 0 to 9")
    except Exception as error:  # zipfile, gzip and NumPy raise many kinds for a damaged file
        raise ValueError(f"cannot learn from {source}: {error}") from error
    return digits


def split(name: str, images: NDArray, labels: NDArray) -> Digits:
    """Hold out a fifth. Its seed is not --seed: runs with different seeds are judged on the same digits."""
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    return Digits(name, parts[0], parts[2], parts[1], parts[3])


def sklearn_digits() -> tuple[NDArray, NDArray]:
    """The 1,797 digits that scikit-learn ships, brought to MNIST's form: (images, labels).

    They are 8x8 pixels of 17 levels: how much of a 4x4 block of the scanned bitmap was ink. Enlarged smoothly and
    steepened around one half, the levels give most of the bitmap's edge back, so that strokes are as sharp as
    MNIST's and a network trained on these reads other pictures too.
    """
    digits = sklearn.datasets.load_digits()
    pictures = []
    for levels in (digits.images / 16).astype(np.float32):
        enlarged = Image.fromarray(np.pad(levels, 1)).resize((40, 40), Image.Resampling.BICUBIC)
        pictures.append(centre_digit(np.clip(EDGE * (np.asarray(enlarged) - 0.5) + 0.5, 0, 1)))
    return np.stack(pictures), digits.target


def read_mnist(directory: Path) -> Digits:
    """MNIST from its four files, gzipped or not."""
    arrays = []
    for name in MNIST_FILES:
        path = directory / name
        content = path.read_bytes() if path.exists() else gzip.decompress(Path(f"{path}.gz").read_bytes())
        sides = content[3]  # after two zero bytes and the type: the number of dimensions, and each as 32 bits
        shape = np.frombuffer(content, ">u4", sides, offset=4)
        arrays.append(np.frombuffer(content, np.uint8, offset=4 + 4 * sides).reshape(shape))
    return Digits("MNIST", *arrays)


def download(directory: Path) -> Path:
    """Fetch those of MNIST's files that `directory` lacks; return it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in MNIST_FILES:
        path = directory / f"{name}.gz"
        if not path.exists():
            part, _ = urllib.request.urlretrieve(f"{MNIST_URL}/{path.name}", f"{path}.part")
            Path(part).rename(path)
    return directory


def find_ink(gray: NDArray) -> NDArray[np.float32]:
    """How much ink every pixel holds, 0..1. The paper is the median of the picture's outermost pixels.

    gray: (height, width) uint8, dark on light or light on dark. Raises ValueError without contrast.
    """
    gray = gray.astype(np.float32)
    border = np.concatenate([gray[0], gray[-1], gray[1:-1, 0], gray[1:-1, -1]])
    paper = np.median(border)
    darker, lighter = paper - gray.min(), gray.max() - paper
    strongest = max(darker, lighter)
    if strongest < MINIMUM_CONTRAST:
        raise ValueError(f"no digit found: its levels differ by {gray.max() - gray.min():.0f} of 255 only")
    ink = np.maximum(paper - gray if darker > lighter else gray - paper, 0) / strongest
    sure = Image.fromarray((ink >= STRONG).astype(np.uint8))
    near = np.asarray(sure.filter(ImageFilter.MaxFilter(3)))  # faint ink counts only at the edge of a stroke
    return (ink * near).astype(np.float32)


def centre_digit(ink: NDArray) -> NDArray[np.uint8]:
    """Crop the ink, fit it into 20x20 with its proportions kept, and put its centre of mass into the middle.

    ink: (height, width) float32, 0 is paper, some pixel is not -> (28, 28) uint8, as MNIST was made
    (LeCun et al. 1998).
    """
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    box = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = BOX_SIZE / max(box.size)
    size = tuple(max(1, round(side * scale)) for side in box.size)
    digit = np.asarray(box.resize(size, Image.Resampling.BILINEAR))  # widens its filter when it shrinks
    digit = digit / digit.max()
    corner = []
    for axis, side in enumerate(digit.shape):
        mass = digit.sum(axis=1 - axis)
        centre = (mass * np.arange(side)).sum() / mass.sum()
        corner.append(int(np.clip(round(IMAGE_SIZE / 2 - centre), 0, IMAGE_SIZE - side)))
    canvas = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    top, left = corner
    canvas[top : top + digit.shape[0], left : left + digit.shape[1]] = np.rint(digit * 255)
    return canvas
