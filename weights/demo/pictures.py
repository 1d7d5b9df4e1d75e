"""Find labelled pictures: Tiny ImageNet in either of its forms, or directories of your own."""

import io
import zipfile
from collections import namedtuple
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from PIL import Image

HELD_OUT = 10  # of each class in a directory of class directories, every so many pictures are for validation

Pictures = namedtuple("Pictures", "files labels")  # paths or streams that Pillow can open; the numbers of their classes


class DataError(Exception):
    """Pictures that cannot be used; the message is one line."""


class Stored(io.BytesIO):
    """A picture inside an archive, named as messages name it."""

    def __init__(self, content, name):
        super().__init__(content)
        self.name = name

    def __str__(self):
        return self.name


def find(path):
    """Return (training Pictures, validation Pictures, class names). Raises DataError.

    path: an unpacked tiny-imagenet-200; the same as train-*.npz and val.npz; or a directory that holds a directory
    of pictures for each class.
    """
    path = Path(path)
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
    archives = [*sorted(path.glob("train-*.npz")), path / "val.npz"]
    parts = []
    for archive in archives:
        with np.load(archive) as arrays:
            jpeg, offsets, labels = arrays["jpeg"].tobytes(), arrays["offsets"].tolist(), arrays["labels"].tolist()
            names = [first_name(name) for name in arrays["names"].tolist()]
        files = [Stored(jpeg[start:end], f"{archive}, picture {n}") for n, (start, end) in enumerate(pairwise(offsets))]
        parts.append(Pictures(files, labels))
    *train, validation = parts
    if not train:
        raise DataError(f"{path}: there is no train-*.npz beside val.npz")
    return Pictures(*(list(chain(*lists)) for lists in zip(*train))), validation, names


def from_tiny_imagenet(path):
    """Read the directory to which Stanford's tiny-imagenet-200.zip unpacks."""
    wnids = (path / "wnids.txt").read_text().split()
    words = dict(line.split("\t") for line in (path / "words.txt").read_text().splitlines())
    train = [(file, label) for label, wnid in enumerate(wnids)
             for file in sorted((path / "train" / wnid / "images").iterdir())]  # fmt: skip
    lines = (path / "val" / "val_annotations.txt").read_text().splitlines()
    validation = [(path / "val" / "images" / file, wnids.index(wnid))
                  for file, wnid in (line.split("\t")[:2] for line in lines)]  # fmt: skip
    names = [first_name(words[wnid]) for wnid in wnids]
    return Pictures(*zip(*train)), Pictures(*zip(*validation)), names


def first_name(synonyms):
    """WordNet lists all names of a thing; the first is the one in use, and the one in ImageNet's usual labels."""
    return synonyms.split(",")[0]


def from_directories(path):
    suffixes = Image.registered_extensions()
    train, validation, names = [], [], sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    for label, name in enumerate(names):
        files = sorted(file for file in (path / name).iterdir() if file.suffix.lower() in suffixes)
        if len(files) < 2:
            raise DataError(f"{path / name}: a class needs two pictures or more, and here are {len(files)}")
        for number, file in enumerate(files):
            (train if number % HELD_OUT else validation).append((file, label))
    if len(names) < 2:
        raise DataError(f"{path}: needs a directory for each of two classes or more; there are {len(names)}")
    return Pictures(*zip(*train)), Pictures(*zip(*validation)), names
