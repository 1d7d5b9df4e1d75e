"""What surrounds the lessons: the command line, reading and writing pictures, the figure of the stages, the clock.

Nothing here is about vision. A reader can skip it.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps


def parser(description: str, sample: str) -> argparse.ArgumentParser:
    """The arguments that lessons 0 to 5 take."""
    result = argparse.ArgumentParser(description=description.splitlines()[0])
    result.add_argument(
        "picture",
        nargs="?",
        metavar="PICTURE",
        help=f"any picture that Pillow reads; default: {sample}, a sample of scikit-image",
    )
    result.add_argument(
        "--out", type=Path, metavar="FILE", help="the result; default: PICTURE_LESSON.png, where you are"
    )
    result.add_argument("--stages", action="store_true", help="also draw every stage, in a second file, ..._stages.jpg")
    result.set_defaults(sample=sample)
    return result


def run(main: Callable[[], None]) -> None:
    """Call `main()`; what the user can mend ends the program with one line."""
    try:
        main()
    except (OSError, ValueError, MemoryError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def read(arguments: argparse.Namespace, mode: str = "RGB") -> NDArray[np.uint8]:
    """The picture that the arguments name, or the lesson's sample; as `read_picture`."""
    if arguments.picture is None:
        return getattr(skimage.data, arguments.sample)()
    return read_picture(arguments.picture, mode)


def read_picture(path: str | Path, mode: str) -> NDArray[np.uint8]:
    """A picture file as uint8: (height, width, 3) for mode "RGB", (height, width) for mode "L", gray.

    Turned upright as its EXIF data says; transparency is laid over white; 16 bits are cut to the upper 8.
    Raises ValueError if there is no such picture, or if it is broken.
    """
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                image = Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.asarray(image.convert(mode))
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def write(arguments: argparse.Namespace, result: NDArray, stages: Callable[[], list[tuple]], columns: int = 3) -> None:
    """Write `result`, uint8, to --out and, if asked for, the figure of `stages()` beside it. Never over the input."""
    name = f"{Path(arguments.picture or arguments.sample).stem}_{Path(sys.argv[0]).stem}.png"
    out = arguments.out or Path(name)
    figure = out.with_name(f"{out.stem}_stages.jpg")
    for path in (out, figure) if arguments.stages else (out,):
        if arguments.picture and path.exists() and path.samefile(arguments.picture):
            raise ValueError(f"{path} is the picture itself: name another file with --out")
    try:
        Image.fromarray(result).save(out, quality=82)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot write {out}: {getattr(error, 'strerror', None) or error}") from error
    print(f"wrote {out}")
    if arguments.stages:
        draw(stages(), columns).savefig(figure, pil_kwargs={"quality": 82})
        print(f"wrote {figure}")


def draw(stages: list[tuple], columns: int, inches: float = 10.8) -> Figure:
    """A figure of the stages, side by side.

    stages: a list of (title, panel). A panel is a picture, (h, w) or (h, w, 3), or a function that draws on
    the axes it is given. uint8 is shown from 0 to 255, any other dtype from its minimum to its maximum.
    """
    first = next(panel for _, panel in stages if not callable(panel))
    aspect = min(max(first.shape[0] / first.shape[1], 0.25), 4)
    rows = -(-len(stages) // columns)
    figure = Figure(figsize=(inches, rows * (inches / columns * aspect + 0.4)), dpi=100, layout="constrained")
    for axes, (title, panel) in zip(figure.subplots(rows, columns, squeeze=False).flat, stages):
        axes.set_title(title)
        if callable(panel):
            panel(axes)
        else:
            limits = {"vmin": 0, "vmax": 255} if panel.dtype == np.uint8 else {}
            step = max(1, max(panel.shape) // 1440)  # a photograph has more pixels than the figure can show
            axes.imshow(panel[::step, ::step], cmap="gray", **limits)
            axes.set_axis_off()
    for axes in figure.axes[len(stages) :]:
        axes.remove()
    return figure


def race(label: str, ours: Callable, opencvs: Callable, distance: Callable = lambda a, b: np.abs(a - b)) -> Any:
    """Time `ours()` and `opencvs()`, print both and how far apart their results are; return our result."""
    result, milliseconds = median_ms(ours)
    expected, reference = median_ms(opencvs)
    error = distance(np.asarray(result, np.float64), np.asarray(expected, np.float64))
    threads = cv2.getNumThreads()
    print(
        f"{label}: {milliseconds:.2f} ms here, {reference:.2f} ms in OpenCV {cv2.__version__} on {threads} "
        f"thread{'s' * (threads != 1)}, {milliseconds / reference:.1f} times as long; "
        f"{np.count_nonzero(error)} of {error.size} values differ, by at most {error.max():g}"
    )
    return result


def median_ms(function: Callable, rounds: int = 9, seconds: float = 1.5) -> tuple:
    """Call `function` up to `rounds` times, for about `seconds`; return its result and the median time in ms."""
    times = []
    while len(times) < rounds and sum(times) < seconds:
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return result, statistics.median(times) * 1000
