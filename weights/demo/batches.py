"""From picture files to what the network is trained on: decoded once, then moved, mirrored and scaled every time."""

from collections import namedtuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional
from tqdm import tqdm

from common.weights_on_disk import IMAGENET_V1
from pictures import DataError

SIDE = 64  # pixels: Tiny ImageNet's
SHIFT = 6  # pixels: the most by which a picture is moved

Dataset = namedtuple("Dataset", "pixels labels")  # uint8 (count, 3, SIDE, SIDE); int64 (count,)


def decode(pictures):
    """Return the Dataset of Pictures: of each the middle square, SIDE x SIDE. Raises DataError."""
    pixels = torch.empty((len(pictures.labels), 3, SIDE, SIDE), dtype=torch.uint8)
    for number, file in enumerate(tqdm(pictures.files, "decoding", disable=None)):
        try:
            with Image.open(file) as picture:
                upright = ImageOps.exif_transpose(picture).convert("RGB")
                square = ImageOps.fit(upright, (SIDE, SIDE), Image.Resampling.BILINEAR)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{file}: not a readable picture ({error})") from None
        pixels[number] = torch.from_numpy(np.array(square)).permute(2, 0, 1)
    return Dataset(pixels, torch.as_tensor(pictures.labels, dtype=torch.int64))


def shuffled(count, size, epoch, seed):
    """Return the indices of an epoch's batches, each of `size` pictures; what is left over is left out."""
    order = torch.randperm(count, generator=generator(seed, epoch))
    return order[: count - count % size].split(size)


def generator(seed, number):
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


def augment(pixels, generator):
    """Mirror half of the pictures, and move all by up to SHIFT pixels; the edge is repeated where they moved away."""
    padded = functional.pad(pixels.float(), (SHIFT,) * 4, mode="replicate").to(torch.uint8)
    moves = torch.randint(2 * SHIFT + 1, (len(pixels), 2), generator=generator).tolist()
    mirrored = (torch.rand(len(pixels), generator=generator) < 0.5).tolist()
    height, width = pixels.shape[2:]
    moved = [picture[:, top : top + height, left : left + width] for picture, (top, left) in zip(padded, moves)]
    return torch.stack([picture.flip(2) if mirror else picture for picture, mirror in zip(moved, mirrored)])


def prepare(pixels, size, device):
    """Return uint8 pictures as the network's input: (count, 3, size, size) float32, channels last, normalised."""
    pictures = pixels.to(device).float().div(255)
    if size != pictures.shape[-1]:
        pictures = functional.interpolate(pictures, size=(size, size), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(IMAGENET_V1[name], device=device)[:, None, None] for name in ("mean", "std"))
    return ((pictures - mean) / std).contiguous(memory_format=torch.channels_last)
