"""Find labelled pictures: Tiny ImageNet in either of its forms, or directories of your own."""

import io
import zipfile
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from PIL import Image

HELD_OUT = 10  # of each class in a directory of class directories, every so many pictures are for validation

Labelled = list[tuple[Path | io.BytesIO, int]]  # what Pillow can open, and the number of its class


class DataError(Exception):
    """Pictures, or a training, that cannot be used; the message is one line."""


def find(path: Path) -> tuple[Labelled, Labelled, list[str]]:
    """Return (training pictures, validation pictures, class names). Raises DataError.

    path: an unpacked tiny-imagenet-200; the same as train-*.npz and val.npz; or a directory that holds a directory
    of pictures for each class.
    """
    try:
        if (path / "val.npz").is_file():
            return from_archives(path)
        if (path / "wnids.txt").is_file():
            return from_tiny_imagenet(path)
        return from_directories(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def from_archives(path):
    """Read train-*.npz and val.npz: `jpeg`, all files end to end; where they start, `offsets`; `labels`; `names`."""
    *train, held_out = [from_archive(archive) for archive in [*sorted(path.glob("train-*.npz")), path / "val.npz"]]
    if not train:
        raise DataError(f"{path}: there is no train-*.npz beside val.npz")
    names = [first_name(name) for name in np.load(path / "val.npz")["names"].tolist()]
    return list(chain(*train)), held_out, names


def from_archive(archive):
    with np.load(archive) as arrays:
        jpeg, ends = arrays["jpeg"].tobytes(), pairwise(arrays["offsets"].tolist())
        return list(zip([io.BytesIO(jpeg[start:end]) for start, end in ends], arrays["labels"].tolist()))


def from_tiny_imagenet(path):
    """Read the directory to which Stanford's tiny-imagenet-200.zip unpacks."""
    wnids = (path / "wnids.txt").read_text().split()
    words = dict(line.split("\t") for line in (path / "words.txt").read_text().splitlines())
    train = [(file, label) for label, wnid in enumerate(wnids)
             for file in sorted((path / "train" / wnid / "images").iterdir())]  # fmt: skip
    lines = (path / "val" / "val_annotations.txt").read_text().splitlines()
    held_out = [(path / "val" / "images" / file, wnids.index(wnid)) for file, wnid, *_ in map(str.split, lines)]
    return train, held_out, [first_name(words[wnid]) for wnid in wnids]


def first_name(synonyms):
    """WordNet lists all names of a thing; the first is the one in use, and the one in ImageNet's usual labels."""
    return synonyms.split(",")[0]


def from_directories(path):
    suffixes = Image.registered_extensions()
    train, held_out, names = [], [], sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    for label, name in enumerate(names):
        files = sorted(file for file in (path / name).iterdir() if file.suffix.lower() in suffixes)
        if len(files) < 2:
            raise DataError(f"{path / name}: a class needs two pictures or more, and here are {len(files)}")
        for number, file in enumerate(files):
            (train if number % HELD_OUT else held_out).append((file, label))
    if len(names) < 2:
        raise DataError(f"{path}: needs a directory for each of two classes or more; there are {len(names)}")
    return train, held_out, names
