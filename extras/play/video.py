"""Label a film or what a camera sees, as it runs.

    python extras/play/video.py CLIP|CAMERA [--out labelled.mp4] [--version v8] [--threads N] [--every-frame]

CLIP is a file, CAMERA a number: 0 is the first camera. Frames that come while the network works are dropped, so that
the labels never lag behind the picture; --every-frame drops none, and a clip then takes as long as it takes.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

# One BLAS thread, set before NumPy loads its BLAS: more cores are version 6's idea alone.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[variable] = "1"
os.environ["OPENCV_LOG_LEVEL"] = "OFF"  # what goes wrong is said here, in one line
os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a script, Python looks beside this file only

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from common.versions import VERSIONS, load_version, named

NO_WINDOW = (
    "there is no window to show it in: give --out FILE, or, with a screen, put the OpenCV that has windows in place of "
    "the one without: pip uninstall opencv-python-headless, then pip install opencv-python"
)


class VideoError(Exception):
    """What the user can mend; the message is one line."""


class Recognizer:
    """A version, for frames in OpenCV's form: (height, width, 3) bytes, blue first."""

    def __init__(self, name: str, weights: Path, threads: int | None = None):
        """threads: of version 6 and later; all cores unless given."""
        version = load_version(name)
        options = {"threads": threads} if hasattr(version, "threads") else {}
        try:
            manifest = version.weights.read_manifest(weights)
            self.model = version.resnet50.ResNet50(weights, image_size=manifest["preprocessing"]["crop"], **options)
        except Exception as error:  # no weights, or no compiler: infer.py's message
            raise VideoError(str(error)) from None
        # From now on frames in place of files; the preprocessing stays the version's.
        version.image.read_picture = Image.fromarray
        self.version, self.labels, self.preprocessing = version, manifest["labels"], manifest["preprocessing"]

    def prepare(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what `forward` takes. The network sees the middle: what lies beside it need not be scaled down."""
        height, width = frame.shape[:2]
        side = min(height, width)
        y, x = (height - side) // 2, (width - side) // 2
        square = cv2.cvtColor(frame[y : y + side, x : x + side], cv2.COLOR_BGR2RGB)
        while len(square) >= 2 * self.preprocessing["resize"]:  # spares 3 of the 7 ms that scaling 720p takes
            square = cv2.resize(square, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        return self.version.image.load_image(square, self.preprocessing)

    def best(self, image: NDArray[np.float32], top: int = 3) -> list[tuple[str, float]]:
        """Return the best labels and their probabilities."""
        probabilities = self.version.ops.softmax(self.model.forward(image))
        return [(self.labels[c], float(probabilities[c])) for c in np.argsort(-probabilities, kind="stable")[:top]]


def open_source(name: str) -> tuple[cv2.VideoCapture, bool]:
    """Open a clip, or the camera of that number. Return it, and whether it is a camera. Raises VideoError."""
    camera = name.isdecimal() and not Path(name).exists()
    if not camera and not Path(name).exists():
        raise VideoError(f"{name}: no such file")
    capture = cv2.VideoCapture(int(name) if camera else name)
    if not capture.isOpened():
        trouble = (
            "there is no such camera, or another program has it" if camera else "no film, or a codec that OpenCV lacks"
        )
        raise VideoError(f"{'camera ' * camera}{name}: {trouble}")
    return capture, camera


def frames(
    capture: cv2.VideoCapture,
    live: bool,
    rate: float,
    clock: Callable = time.perf_counter,
    sleep: Callable = time.sleep,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (number, frame) of a clip. live: at the clip's own pace, leaving out what there was no time for."""
    start, number = clock(), 0
    while True:
        due = int((clock() - start) * rate) if live else number
        while number < due and capture.grab():  # decodes no more than the next frames need
            number += 1
        found, frame = capture.read()
        if not found:
            return
        if live and (early := start + number / rate - clock()) > 0:
            sleep(early)
        yield number, frame
        number += 1


def camera_frames(capture: cv2.VideoCapture, rate: float) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (number, frame) of a camera, always the newest; it counts on while nobody looks."""
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    start, number = time.perf_counter(), -1
    while (read := capture.read())[0]:
        number = max(number + 1, int((time.perf_counter() - start) * rate))
        yield number, read[1]


def ahead(items: Iterator) -> Iterator:
    """The same items, each made ready by another thread while the one before it is worked on."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while item := coming.result():
            coming = thread.submit(next, items, None)
            yield item


def draw(frame: NDArray[np.uint8], best: list[tuple[str, float]], title: str) -> None:
    """Write a title and the labels in the corner of a frame, as large as it allows, on a darkened ground."""
    scale = min(frame.shape[:2]) / 720
    style = {"fontFace": cv2.FONT_HERSHEY_SIMPLEX, "fontScale": scale, "thickness": max(1, round(2 * scale))}
    lines = [title, *(f"{probability:4.0%}  {label}" for label, probability in best)]
    line, left = 40 * scale, int(20 * scale)
    width = 2 * left + max(cv2.getTextSize(text, **style)[0][0] for text in lines)
    frame[: int(line * (len(lines) + 0.5)), :width] //= 3
    for row, text in enumerate(lines, start=1):
        cv2.putText(frame, text, (left, int(line * row)), color=(255, 255, 255), lineType=cv2.LINE_AA, **style)


def open_window(wanted: bool) -> bool:
    """Open the window. Return whether there is one; raises VideoError if it is the only place to show anything."""
    screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    try:
        if screen:
            cv2.namedWindow("ResNet-50", cv2.WINDOW_NORMAL)
            return True
    except cv2.error:  # OpenCV's headless wheel
        pass
    if wanted:
        raise VideoError(NO_WINDOW)
    return False


def open_writer(out: Path, source: str, rate: float, frame: NDArray[np.uint8]) -> cv2.VideoWriter:
    """Raises VideoError if OpenCV cannot write such a file, or it would destroy the source."""
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise VideoError(f"{out}: that is the clip itself")
    code = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}.get(out.suffix.lower())
    if not code or not out.parent.is_dir():
        raise VideoError(
            f"{out}: " + ("no such directory" if code else "name a file that ends in .mp4, .mov, .mkv or .avi")
        )
    writer = cv2.VideoWriter(str(out), cv2.VideoWriter.fourcc(*code), rate, frame.shape[1::-1])
    if not writer.isOpened():
        raise VideoError(f"{out}: this OpenCV cannot write it (no permission, or no codec {code})")
    return writer


def write(writer: cv2.VideoWriter, frame: NDArray[np.uint8], times: int) -> None:
    for _ in range(times):
        writer.write(frame)


def run(arguments: argparse.Namespace) -> dict:
    """Label until the clip ends, Ctrl-C, or q in the window. Return counts and times."""
    capture, camera = open_source(arguments.source)
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if 1 <= rate <= 240 else 25.0  # some cameras do not know
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    window = open_window(wanted=not arguments.out)
    recognizer = Recognizer(arguments.version, arguments.weights, arguments.threads)
    source = camera_frames(capture, rate) if camera else frames(capture, not arguments.every_frame, rate)
    source = ahead((number, frame, recognizer.prepare(frame)) for number, frame in source)
    bar = tqdm(total=count if not camera and count > 0 else None, unit=" frames", disable=None)
    writer, labelled, seen, start = None, 0, 0, time.perf_counter()
    thread = ThreadPoolExecutor(1)
    writing = thread.submit(int)
    try:
        for number, frame, image in source:
            best = recognizer.best(image)
            labelled += 1
            speed = labelled / (time.perf_counter() - start)
            draw(frame, best, f"{arguments.version}  {speed:.1f} frames/s")
            if arguments.out and not writer:
                writer = open_writer(arguments.out, arguments.source, rate, frame)
            if writer:  # while the next frame is recognised
                writing.result()
                # Again for each frame left out, so that the film keeps its length.
                writing = thread.submit(write, writer, frame, number + 1 - seen)
            bar.update(number + 1 - seen)
            seen = number + 1
            if window:
                cv2.imshow("ResNet-50", frame)
                if cv2.waitKey(1) & 0xFF == ord("q"):
                    break
        else:
            end = 0 if camera else int(capture.get(cv2.CAP_PROP_POS_FRAMES))
            if writer and end > seen:  # the clip ended while the last one was recognised
                writing.result()
                writing = thread.submit(write, writer, frame, end - seen)
                seen = end
        writing.result()  # raises what kept the last one from being written
    except KeyboardInterrupt:  # what is written so far is a whole film once it is closed
        if not labelled:
            raise
    finally:
        source.close()
        thread.shutdown()
        seconds = time.perf_counter() - start
        for thing in filter(None, (writer, capture)):
            thing.release()
        bar.close()
    if not labelled:
        raise VideoError(f"{arguments.source}: not one frame could be read")
    return {"version": arguments.version, "frames": seen, "labelled": labelled, "seconds": seconds, "rate": rate}


def main() -> int:
    parser = argparse.ArgumentParser(description="Label a film or what a camera sees.")
    parser.add_argument("source", metavar="CLIP|CAMERA", help="a file, or the number of a camera: 0 is the first")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write the labelled film: .mp4, .mov, .mkv, .avi"
    )
    parser.add_argument("--version", type=partial(named, VERSIONS), default="v8_int8", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="of version 6 and later; default: all cores")
    parser.add_argument("--every-frame", action="store_true", help="drop no frame of a clip, however long it takes")
    default = ROOT / "weights" / "resnet50.safetensors"
    parser.add_argument("--weights", type=Path, default=default, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print counts and times as a JSON object")
    arguments = parser.parse_args()
    try:
        found = run(arguments)
    except VideoError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:  # before there was anything to close
        return 130
    line = "{labelled} of {frames} frames labelled in {seconds:.1f} s by {version}"
    print(json.dumps(found) if arguments.json else line.format(**found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
