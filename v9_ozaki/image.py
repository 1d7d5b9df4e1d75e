"""Picture file -> normalised float32 array: what torchvision's inference preset does, with Pillow and NumPy."""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


class ImageError(Exception):
    """A picture that cannot be used; the message is one line that names the file."""


def load_image(path: str | Path, preprocessing: dict) -> NDArray[np.float32]:
    """Return the picture in the file `path` as a (crop, crop, 3) float32 array, channels last, normalised.

    `preprocessing` is the manifest's: resize (shorter side, pixels), crop (pixels), interpolation, mean and std (one
    number a channel, on the scale 0 to 1). Raises ImageError if the file is missing, damaged, no picture, or too large.
    """
    picture, resize, crop = read_picture(path), preprocessing["resize"], preprocessing["crop"]
    shorter = min(picture.size)
    width, height = (resize if side == shorter else int(resize * side / shorter) for side in picture.size)
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise ImageError(f"{path}: {picture.width}x{picture.height} pixels are too narrow; refused")
    picture = picture.resize((width, height), Image.Resampling[preprocessing["interpolation"].upper()])
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    pixels = np.asarray(picture.crop((left, top, left + crop, top + crop)), dtype=np.float32) / np.float32(255)
    return (pixels - np.float32(preprocessing["mean"])) / np.float32(preprocessing["std"])


def read_picture(path: str | Path) -> Image.Image:
    """Return the upright RGB picture of a file (the first one, if it holds several). Raises ImageError."""
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow mentions every oddity of a damaged file
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                return to_rgb(ImageOps.exif_transpose(picture))
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them trip over
        raise ImageError(f"{path}: not a readable picture ({' '.join(str(error).split())})") from None


def to_rgb(picture: Image.Image) -> Image.Image:
    """Turn any Pillow mode into RGB; 16-bit gray keeps its upper 8 bits (Pillow alone would clip it)."""
    if picture.mode.startswith("I"):
        levels = np.asarray(picture).clip(0, 65535).astype(np.uint16) >> 8
        picture = Image.fromarray(levels.astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("floating-point pixels have no agreed white level")
    return picture.convert("RGB")


def check_image_size(image_size: int) -> None:
    """Raise ValueError unless image_size is an integer of at least 32."""
    if not isinstance(image_size, int) or image_size < 32:
        raise ValueError(f"image_size: expected an integer of at least 32, got {image_size!r}")


def check_image(image: NDArray[np.float32], image_size: int) -> None:
    """Raise ValueError unless `image` is what `forward` takes."""
    expected = (image_size, image_size, 3)
    found = (image.dtype, image.shape) if isinstance(image, np.ndarray) else (type(image).__name__,)
    if found != (np.float32, expected) or not image.flags.c_contiguous or not image.flags.aligned:
        raise ValueError(f"image: expected aligned, C-contiguous float32 {expected}, got {' '.join(map(str, found))}")
