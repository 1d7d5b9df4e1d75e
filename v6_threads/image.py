"""Picture file -> normalised float32 array: what torchvision's inference preset does, with Pillow and NumPy."""

import warnings

import numpy as np
from PIL import Image, ImageOps


class ImageError(Exception):
    """A picture that cannot be used; the message is one line that names the file."""


def load_image(path, preprocessing):
    """Return the picture in the file `path` as a (crop, crop, 3) float32 array, channels last, normalised.

    `preprocessing` is the manifest's: resize (shorter side, pixels), crop (pixels), interpolation,
    mean and std (one number a channel, on the scale 0 to 1).
    Raises ImageError if the file is missing, damaged, no picture, or too large.
    """
    picture = center_crop(resize(read_picture(path), preprocessing, path), preprocessing["crop"])
    pixels = np.asarray(picture, dtype=np.float32) / np.float32(255)
    mean = np.array(preprocessing["mean"], dtype=np.float32)
    std = np.array(preprocessing["std"], dtype=np.float32)
    return (pixels - mean) / std


def read_picture(path):
    """Return the upright RGB picture of a file (the first one, if it holds several)."""
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow mentions every oddity of a damaged file
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                return to_rgb(ImageOps.exif_transpose(picture))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{path}: more than {Image.MAX_IMAGE_PIXELS} pixels; refused") from None
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them trip over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path}: not a readable picture ({reason})") from None


def to_rgb(picture):
    """Turn any Pillow mode into RGB; 16-bit gray keeps its upper 8 bits (Pillow alone would clip it)."""
    if picture.mode.startswith("I"):
        levels = np.asarray(picture).clip(0, 65535).astype(np.uint16) >> 8
        picture = Image.fromarray(levels.astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("floating-point pixels have no agreed white level")
    return picture.convert("RGB")


def resize(picture, preprocessing, path):
    """Scale the shorter side to `resize` pixels; the longer one is rounded down, as torchvision does."""
    scale_to, shorter = preprocessing["resize"], min(picture.size)
    width, height = (scale_to if side == shorter else int(scale_to * side / shorter) for side in picture.size)
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise ImageError(f"{path}: {picture.width}x{picture.height} pixels is too narrow; refused")
    return picture.resize((width, height), Image.Resampling[preprocessing["interpolation"].upper()])


def center_crop(picture, crop):
    """Cut the middle crop x crop pixels."""
    left, top = round((picture.width - crop) / 2), round((picture.height - crop) / 2)
    return picture.crop((left, top, left + crop, top + crop))


def check_image_size(image_size):
    """Raise ValueError unless image_size is an integer of at least 32."""
    if not isinstance(image_size, int) or image_size < 32:
        raise ValueError(f"image_size: expected an integer of at least 32, got {image_size!r}")


def check_image(image, image_size):
    """Raise ValueError unless `image` is what `forward` takes."""
    expected = (image_size, image_size, 3)
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image: expected a float32 array of shape {expected}, got {type(image).__name__}")
    if image.shape != expected or image.dtype != np.float32:
        raise ValueError(
            f"image: expected shape {expected} and dtype float32, got shape {image.shape} and dtype {image.dtype}"
        )
    if not image.flags.c_contiguous or not image.flags.aligned:
        raise ValueError("image: expected a C-contiguous array; np.ascontiguousarray makes one")
