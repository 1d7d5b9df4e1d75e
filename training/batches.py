"""From picture files to what the network is trained on: decoded once, then changed and scaled every time."""

import math
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Generator, Tensor
from torch.nn import functional
from tqdm import tqdm

from common.versions import VERSIONS, load_version
from common.weights_file import IMAGENET_V1
from training.pictures import DataError, Labelled

to_rgb = load_version(VERSIONS[0]).image.to_rgb  # 16 bits of gray, too, as the versions see them

SIDE = 64  # pixels: Tiny ImageNet's
SHIFT = 6  # pixels: the most by which a picture is moved


class Dataset(NamedTuple):
    pixels: Tensor  # uint8 (count, 3, SIDE, SIDE)
    labels: Tensor  # int64 (count,)


def decode(pictures: Labelled) -> Dataset:
    """Return of each picture the middle square, SIDE x SIDE. Raises DataError."""
    pixels = torch.empty((len(pictures), 3, SIDE, SIDE), dtype=torch.uint8)
    for number, (file, _) in enumerate(tqdm(pictures, "decoding", disable=None)):
        try:
            with Image.open(file) as picture:
                upright = to_rgb(ImageOps.exif_transpose(picture))
                square = ImageOps.fit(upright, (SIDE, SIDE), Image.Resampling.BILINEAR)
        except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them trip over
            raise DataError(f"{file}: not a readable picture ({' '.join(str(error).split())})") from None
        pixels[number] = torch.from_numpy(np.array(square)).permute(2, 0, 1)
    return Dataset(pixels, torch.tensor([label for _, label in pictures]))


def shuffled(count: int, size: int, epoch: int, seed: int) -> tuple[Tensor, ...]:
    """Return the indices of an epoch's batches, each of `size` pictures; what is left over is left out."""
    order = torch.randperm(count, generator=generator(seed, epoch))
    return order[: count - count % size].split(size)


def generator(seed: int, number: int) -> Generator:
    """Random numbers that depend on the epoch's or the step's number alone, so that a training can be resumed."""
    return Generator().manual_seed(seed * 1_000_003 + number)


def augment(pixels: Tensor, generator: Generator) -> Tensor:
    """Mirror half of the pictures, and move all by up to SHIFT pixels; the edge is repeated where they moved away.

    Takes and returns uint8 (count, 3, height, width).
    """
    count, _, height, width = pixels.shape
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2, count, 1), generator=generator)
    rows = (torch.arange(height) + down).clamp(0, height - 1)
    columns = (torch.arange(width) + right).clamp(0, width - 1)
    columns = torch.where(torch.rand(count, 1, generator=generator) < 0.5, columns, columns.flip(1))
    moved = pixels[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None]]
    return moved.permute(0, 3, 1, 2)


def vary(pixels: Tensor, generator: Generator) -> Tensor:
    """Cut a random part out of each picture, mirror half of them, and change their saturation and their light.

    The part has 35 to 100 % of the area, and sides in a ratio of 3:4 to 4:3 (Szegedy et al., "Going deeper with
    convolutions", 2015, section 6). Light of another colour or brightness is a gain for each channel (von
    Kries's model), here of 0.8 to 1.2. Takes and returns uint8 (count, 3, height, width).
    """

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(len(pixels), *shape, generator=generator)

    area, ratio = uniform(0.35, 1), uniform(math.log(3 / 4), math.log(4 / 3)).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    left, top = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)  # of the middle; a picture is -1 ... 1
    mirror = torch.where(uniform(0, 1) < 0.5, -1, 1)
    nothing = torch.zeros(len(pixels))
    maps = torch.stack([width * mirror, nothing, left, nothing, height, top], dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(maps, list(pixels.shape), align_corners=False)
    parts = functional.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    gray = parts.mean(dim=1, keepdim=True)
    saturation, light = uniform(0.5, 1.5, 1, 1, 1), uniform(0.8, 1.2, 3, 1, 1)
    return ((gray + (parts - gray) * saturation) * light).clamp(0, 255).round().to(torch.uint8)


def prepare(pixels: Tensor, size: int, device: torch.device) -> Tensor:
    """Return uint8 pictures as the network's input: (count, 3, size, size) float32, channels last, normalised."""
    pictures = pixels.to(device).float().div(255)
    if size != pictures.shape[-1]:
        pictures = functional.interpolate(pictures, size=(size, size), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(IMAGENET_V1[name], device=device)[:, None, None] for name in ("mean", "std"))
    return ((pictures - mean) / std).contiguous(memory_format=torch.channels_last)
