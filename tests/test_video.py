"""Labelled films: what is written, what is dropped, what is said where it cannot be done, the table in the README."""

import itertools
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from common.marked import fill
from common.versions import ROOT, load_version
from extras.play import measure, video

RATE, WIDTH, HEIGHT = 20, 128, 96


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """12 frames; the brightness of frame n is 20 n."""
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 12)


def make_clip(path, count):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), RATE, (WIDTH, HEIGHT))
    for number in range(count):
        writer.write(np.full((HEIGHT, WIDTH, 3), 20 * number % 240, np.uint8))
    writer.release()
    return path


def read(path):
    """All frames of a film, and its frames a second."""
    capture = cv2.VideoCapture(str(path))
    reads = iter(capture.read, (False, None))
    return [frame for _, frame in reads], capture.get(cv2.CAP_PROP_FPS)


def brightness(frames):
    """Of the lowest rows, where nothing is written."""
    return [round(frame[-8:].mean() / 20) for frame in frames]


def label(monkeypatch, capsys, weights, *words, version="v2"):
    """Run the command line here; what it prints as JSON."""
    words = [*map(str, words), "--version", version, "--weights", str(weights), "--json"]
    monkeypatch.setattr(sys, "argv", ["video.py", *words])
    assert video.main() == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_every_frame(clip, suffix, small_weights_file, tmp_path, monkeypatch, capsys):
    out = tmp_path / f"labelled{suffix}"
    said = label(monkeypatch, capsys, small_weights_file, clip, "--out", out, "--every-frame")
    assert (said["frames"], said["labelled"], said["rate"]) == (12, 12, RATE)
    frames, rate = read(out)
    assert rate == RATE and brightness(frames) == list(range(12))
    for before, after in zip(read(clip)[0], frames):
        change = np.abs(after[: HEIGHT // 2].astype(int) - before[: HEIGHT // 2]).max(-1)
        assert after.shape == before.shape and 0.01 < (change > 40).mean() < 0.8, "words stand in the upper half"


def test_dropped_frames_leave_the_film_as_long(clip, small_weights_file, tmp_path, monkeypatch, capsys):
    every = video.frames
    some = lambda capture, *_: ((n, f) for n, f in every(capture, False, 25.0) if n in (0, 3, 4, 9))  # noqa: E731
    monkeypatch.setattr(video, "frames", some)
    said = label(monkeypatch, capsys, small_weights_file, clip, "--out", tmp_path / "o.mp4")
    assert (said["frames"], said["labelled"]) == (12, 4)
    assert brightness(read(tmp_path / "o.mp4")[0]) == [0, 3, 3, 3, 4, 9, 9, 9, 9, 9, 9, 9]


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize(
    ("work", "live", "kept"),
    [
        (0.01, True, list(range(12))),  # at 20 frames a second: time for all
        (0.12, True, [0, 2, 4, 7, 9]),  # 2.4 frames pass while one is recognised
        (0.12, False, list(range(12))),
    ],
)
def test_what_there_is_no_time_for_is_dropped(clip, work, live, kept):
    clock, found = Clock(), []
    for number, frame in video.frames(cv2.VideoCapture(str(clip)), live, RATE, clock, clock.sleep):
        found.append(number)
        assert brightness([frame]) == [number]
        assert not live or clock.now >= 100 + number / RATE - 1e-9, "no frame before its time"
        clock.now += work
    assert found == kept


def test_a_camera_gives_its_newest_frame():
    shots = iter([(True, "a"), (True, "b"), (True, "c"), (False, None)])
    camera = SimpleNamespace(set=lambda *_: None, read=lambda: next(shots))
    assert list(video.camera_frames(camera, rate=1e-9)) == [(0, "a"), (1, "b"), (2, "c")]
    shots = itertools.repeat((True, "a"))
    numbers = [number for number, _ in itertools.islice(video.camera_frames(camera, rate=1e9), 5)]
    assert numbers == sorted(set(numbers)) and numbers[-1] > 5, "the time that passed counts, not the frames seen"


@pytest.mark.parametrize("name", ["v2_vectorized", "v8_int8"])
def test_a_frame_is_seen_as_its_picture_is(name, small_weights_file, rng, tmp_path):
    frame = rng.integers(0, 256, (60, 100, 3), dtype=np.uint8)
    recognizer = video.Recognizer(name, small_weights_file)
    found = recognizer.best(recognizer.prepare(frame), top=7)
    Image.fromarray(frame[:, 20:80, ::-1]).save(tmp_path / "square.png")
    version = load_version(name)
    image = version.image.load_image(tmp_path / "square.png", recognizer.preprocessing)
    exact = version.ops.softmax(version.resnet50.ResNet50(small_weights_file, image_size=32).forward(image))
    assert found == [(f"class {c}", float(exact[c])) for c in np.argsort(-exact)]


def test_a_large_frame_is_halved_and_still_seen_as_its_picture_is(small_weights_file):
    recognizer = video.Recognizer("v2_vectorized", small_weights_file)
    file = Path(skimage.data.__file__).parent / "coffee.png"  # 600x400 pixels, for 40 of them
    found = recognizer.prepare(cv2.imread(str(file)))
    exact = load_version("v2_vectorized").image.load_image(file, recognizer.preprocessing)
    assert found.shape == exact.shape == (32, 32, 3)
    assert np.abs(found - exact).mean() < 0.05 < exact.std(), "in standard deviations of ImageNet's pixels"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.mp4", "--out", "o.mp4"], "missing.mp4: no such file"),
        ([ROOT / "README.md", "--out", "o.mp4"], "README.md: no film, or a codec that OpenCV lacks"),
        (["99", "--out", "o.mp4"], "camera 99: there is no such camera"),
        (["CLIP"], "give --out FILE, or, with a screen"),
        (["CLIP", "--out", "o.xyz"], "o.xyz: name a file that ends in .mp4"),
        (["CLIP", "--out", "missing/o.mp4"], "o.mp4: no such directory"),
        (["CLIP", "--out", "CLIP"], "that is the clip itself"),
        (["CLIP", "--out", "o.mp4", "--weights", "missing.safetensors"], "missing.safetensors"),
    ],
)
def test_errors(clip, words, message, small_weights_file, tmp_path, monkeypatch, capsys):
    before = clip.read_bytes()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(video.cv2, "namedWindow", lambda *_: (_ for _ in ()).throw(cv2.error("no window")))
    words = [str(clip) if word == "CLIP" else str(word) for word in words]
    words += [] if "--weights" in words else ["--weights", str(small_weights_file)]
    monkeypatch.setattr(sys, "argv", ["video.py", *words, "--version", "v2"])
    with pytest.raises(SystemExit) as stopped:
        video.main()
    assert stopped.value.code.startswith("error: ") and message in stopped.value.code and "\n" not in stopped.value.code
    assert clip.read_bytes() == before and list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_a_film(small_weights_file, tmp_path):
    clip, out = make_clip(tmp_path / "long.mp4", 1500), tmp_path / "out.mp4"
    command = [
        sys.executable,
        ROOT / "extras" / "play" / "video.py",
        clip,
        "--out",
        out,
        "--every-frame",
        "--version",
        "v2",
    ]
    process = subprocess.Popen([*command, "--weights", small_weights_file], stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not (out.exists() and out.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = re.match(r"(\d+) of (\d+) frames labelled", process.communicate(timeout=60)[0])
    assert process.returncode == 0 and 0 < int(said[1]) < 1500
    assert len(read(out)[0]) - int(said[2]) in (0, 1)  # one may be written, and not yet counted


def test_the_readme_shows_the_newest_results():
    stored = [json.loads(path.read_text("utf-8")) for path in measure.RESULTS.glob("*.json")]
    assert all([row["version"] for row in found["rows"]] == list(measure.NAMES) for found in stored)
    text, newest = measure.README.read_text("utf-8"), max(stored, key=lambda found: found["date"])
    assert fill(text, "play:video", measure.table(newest)) == text


def test_the_table_takes_the_median():
    rows = [
        {"version": name, "frames_per_second": [3, 21.04, 1], "frames": 250, "labelled": 7} for name in measure.NAMES
    ]
    machine = {"processor": "A processor", "cores": 2}
    shown = measure.table({"rows": rows, "size": [1280, 720], "rate": 25, "machine": machine, "date": "2026-11-25"})
    assert "| `v8_int8` | 3.0 | 7 of 250 |\n" in shown and "A processor, 2 cores, 2026-11-25." in shown


def test_the_measured_clip(tmp_path):
    measure.make_clip(tmp_path / "clip.mp4", seconds=1)
    frames, rate = read(tmp_path / "clip.mp4")
    assert rate == len(frames) == 25 and frames[0].shape == (720, 1280, 3)
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 5
