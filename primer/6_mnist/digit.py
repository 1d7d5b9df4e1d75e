"""A picture of one digit -> the 28x28 form of MNIST: light ink on black, in a 20x20 box, centred by mass."""

import numpy as np
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

BOX_SIZE = 20
IMAGE_SIZE = 28
MINIMUM_CONTRAST = 16  # levels of 255 between the paper and the strongest ink; camera noise stays below
STRONG = 0.35  # share of the strongest ink that is surely ink: grain and JPEG's ringing stay below


class DigitError(Exception):
    """The picture cannot be read, or holds nothing that could be a digit."""


def to_gray(picture):
    """A Pillow picture of any mode -> (height, width) float32 in 0..255, EXIF orientation applied.

    Transparency becomes middle gray, so that neither black nor white ink vanishes on it. Modes of more than
    8 bits a channel have no agreed white: their own minimum and maximum become 0 and 255.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        gray = np.asarray(picture, np.float64)
        if not np.isfinite(gray).all():
            raise DigitError("the picture holds values that are not finite")
        low, high = gray.min(), gray.max()
        return ((gray - low) * (255.0 / (high - low if high > low else 1.0))).astype(np.float32)
    if picture.has_transparency_data:
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}.get(picture.mode, "RGBA")).convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (128, 128, 128, 255)), picture)
    return np.asarray(picture.convert("L"), np.float32)


def find_ink(gray):
    """How much ink every pixel holds, 0..1. The paper is the median of the picture's outermost pixels.

    gray: (height, width) in 0..255, dark on light or light on dark. Raises DigitError without contrast.
    """
    border = np.concatenate([gray[0], gray[-1], gray[1:-1, 0], gray[1:-1, -1]])
    paper = np.median(border)
    darker, lighter = paper - gray.min(), gray.max() - paper
    strongest = max(darker, lighter)
    if strongest < MINIMUM_CONTRAST:
        raise DigitError(f"no digit found: its levels differ by {gray.max() - gray.min():.0f} of 255 only")
    ink = np.maximum(paper - gray if darker > lighter else gray - paper, 0) / strongest
    sure = Image.fromarray((ink >= STRONG).astype(np.uint8))
    near = np.asarray(sure.filter(ImageFilter.MaxFilter(3)))  # faint ink counts only at the edge of a stroke
    return (ink * near).astype(np.float32)


def centre_digit(ink):
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


def read_gray(path):
    """A picture file of any mode -> (height, width) float32 in 0..255. Raises DigitError."""
    try:
        with Image.open(path) as picture:
            return to_gray(picture)
    except FileNotFoundError:
        raise DigitError("no such file") from None
    except UnidentifiedImageError:
        raise DigitError("not a picture that Pillow can read") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DigitError(f"cannot be read: {error}") from None
