"""What surrounds a lesson: read a picture, write one, draw the stages, time ours against OpenCV's.

Nothing here is about vision. Lessons 0 to 5 each hold the same copy, so that a directory runs on its own.
"""

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

SIGNATURE = f"primer {Path(__file__).resolve().parent.name}"  # marks the pictures that this lesson wrote


class LessonError(Exception):
    """Something that the user can mend; the message is the one line to show."""


class Parser(argparse.ArgumentParser):
    """The arguments that every lesson takes; a wrong one ends the program with one line."""

    def __init__(self, description, sample):
        super().__init__(description=description.splitlines()[0])
        self.name = Path(sys.argv[0]).stem
        self.add_argument("picture", nargs="?", metavar="PICTURE",
                          help=f"any picture that Pillow reads; default: {sample}, a sample of scikit-image")
        self.add_argument("--out", type=Path, metavar="FILE",
                          help=f"the result, .png or .jpg; default: PICTURE_{self.name}.png, where you are")
        self.add_argument("--stages", action="store_true",
                          help="also draw every intermediate stage, in a second file, ..._stages.jpg")
        self.set_defaults(sample=sample)

    def parse_args(self, args=None, namespace=None):
        arguments = super().parse_args(args, namespace)
        stem = Path(arguments.picture or arguments.sample).stem
        arguments.out = arguments.out or Path(f"{stem}_{self.name}.png")
        return arguments

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def run(main):
    """Call `main()`; turn what the user can mend into one line on stderr and exit status 1."""
    script = Path(sys.argv[0]).name
    try:
        main()
    except (LessonError, ValueError) as error:
        sys.exit(f"{script}: {error}")
    except MemoryError:
        sys.exit(f"{script}: not enough memory for a picture of this size: scale it down first")
    except KeyboardInterrupt:
        sys.exit(130)


def read_picture(arguments, mode="RGB"):
    """The picture as uint8: (height, width, 3) for mode "RGB", (height, width) for mode "L" (gray).

    Turned upright as its EXIF data says; transparency is laid over white; 16 bits are cut to the upper 8.
    Raises LessonError if there is no such picture, or if it is broken or suspiciously large.
    """
    if arguments.picture is None:
        return _upright(Image.fromarray(_sample(arguments.sample)), mode)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(arguments.picture) as image:
                return _upright(image, mode)
    except UnidentifiedImageError as error:
        raise LessonError(f"cannot read {arguments.picture}: not a picture that Pillow knows") from error
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        reason = getattr(error, "strerror", None) or error
        raise LessonError(f"cannot read {arguments.picture}: {reason}") from error


def _sample(name):
    try:
        import skimage.data
    except ImportError as error:
        raise LessonError("no PICTURE given, and the sample needs: pip install scikit-image") from error
    return getattr(skimage.data, name)()


def _upright(image, mode):
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray(np.clip(np.asarray(image) // 257, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert(mode))


def write_results(arguments, result, stages, columns=3):
    """Write `result`, uint8, to --out and, if asked for, the figure of `stages()` beside it."""
    _write_picture(arguments, arguments.out, result)
    if arguments.stages:
        figure = arguments.out.with_name(f"{arguments.out.stem}_stages.jpg")
        _write_picture(arguments, figure, _figure(stages(), columns))


def _write_picture(arguments, path, pixels):
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise LessonError(f"cannot write {path}: the name must end in .png or .jpg")
    try:
        if path.exists() and not _may_replace(path, arguments.picture):
            raise LessonError(f"{path} exists and is not an earlier result: name another file with --out")
        text = PngInfo()
        text.add_text("Software", SIGNATURE)
        Image.fromarray(pixels).save(path, pnginfo=text, comment=SIGNATURE, quality=82)
    except OSError as error:
        raise LessonError(f"cannot write {path}: {error.strerror or error}") from error
    print(f"wrote {path}")


def _may_replace(path, picture):
    """Only what this lesson wrote, never the input. PNG keeps the signature as text, JPEG as a comment."""
    try:
        with Image.open(path) as image:
            signatures = image.info.get("Software"), image.info.get("comment")
    except Exception:  # whatever it is, it is not ours
        return False
    ours = SIGNATURE in signatures or SIGNATURE.encode() in signatures
    return ours and not (picture and path.samefile(picture))


def _figure(stages, columns, inches=10.8):
    """Draw the stages side by side; return the figure as pixels, (height, width, 3) uint8.

    stages: a list of (title, panel). A panel is a picture, (h, w) or (h, w, 3), or a function that draws on
    the axes it is given. uint8 is shown from 0 to 255, any other dtype from its minimum to its maximum.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LessonError("--stages needs: pip install matplotlib") from error
    first = next(panel for _, panel in stages if not callable(panel))
    aspect = min(max(first.shape[0] / first.shape[1], 0.25), 4)
    rows = -(-len(stages) // columns)
    figure = Figure(figsize=(inches, rows * (inches / columns * aspect + 0.4)), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (title, panel) in zip(figure.subplots(rows, columns, squeeze=False).flat, stages):
        axes.set_title(title)
        if callable(panel):
            panel(axes)
        else:
            limits = {"vmin": 0, "vmax": 255} if panel.dtype == np.uint8 else {}
            step = max(1, max(panel.shape) // 1440)  # a photograph has more pixels than the figure can show
            axes.imshow(panel[::step, ::step], cmap="gray", **limits)
            axes.set_axis_off()
    for axes in figure.axes[len(stages):]:
        axes.remove()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def race(label, ours, opencvs, distance=lambda a, b: np.abs(a - b)):
    """Time `ours()` and `opencvs(cv2)`, print both and how far apart their results are; return our result."""
    result, milliseconds = _median_ms(ours)
    line = f"{label}: {milliseconds:.2f} ms here"
    try:
        import cv2
    except ImportError:
        print(f"{line}; to compare with OpenCV: pip install opencv-python-headless")
        return result
    expected, reference = _median_ms(lambda: opencvs(cv2))
    error = distance(np.asarray(result, np.float64), np.asarray(expected, np.float64))
    threads = cv2.getNumThreads()
    print(f"{line}, {reference:.2f} ms in OpenCV {cv2.__version__} on {threads} thread{'s' * (threads != 1)}, "
          f"{milliseconds / reference:.1f} times as long; "
          f"{np.count_nonzero(error)} of {error.size} values differ, by at most {error.max():g}")
    return result


def _median_ms(function, rounds=9, seconds=1.5):
    times = []
    while len(times) < rounds and sum(times) < seconds:
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return result, statistics.median(times) * 1000
