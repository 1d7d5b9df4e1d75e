"""Version 8's scales: where they come from, how long they stay, and weights and pictures that are bad."""

import json
import shutil
import subprocess
import sys
import threading
import time
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from bench.reference import reference_logits
from common import weights_file
from common.versions import ROOT, load_version
from tests.conftest import export
from tests.torch_reference import assert_close

V8 = load_version("v8_int8")
CALIBRATION = V8.calibration
SIZE = 32


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET50_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def one_cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache") / "libraries")


@pytest.fixture
def measured(monkeypatch):
    """The pictures of each measurement that was made, instead of found in the cache. It is not really made: scales that
    are kept need not be right."""
    calls = []

    def counted(weights_file, steps, image_size, pictures, threads):
        calls.append(pictures)
        scale = 0.5 + crc32(b"".join(path.read_bytes() for path in pictures)) / 2**40 / CALIBRATION.PERCENTILE
        return {name: (scale, step.zero) for name, step in CALIBRATION.measured(steps).items()}

    monkeypatch.setattr(CALIBRATION, "measure", counted)
    return calls


@pytest.fixture(scope="module")
def steps():
    return V8.resnet50.Network(SIZE, 7, V8.compiler.ISAS["generic128"]).steps


@pytest.fixture
def own_pictures(tmp_path):
    directory = tmp_path / "my pictures"
    directory.mkdir()
    for number in range(2):
        shutil.copy(CALIBRATION.PICTURES / f"rocket_{number + 1}.jpg", directory)
    (directory / "notes.txt").write_text("no picture")
    return directory


def calibrate(path, steps, pictures=None, cache=True):
    return CALIBRATION.calibrate(path, steps, SIZE, pictures, cache)


def test_the_float32_network_is_right(small_weights_file, steps, rng):
    image, seen = rng.standard_normal((SIZE, SIZE, 3)).astype(np.float32), []
    with V8.weights.safe_open(small_weights_file, framework="numpy") as file:
        weights = {step.name: V8.weights.prepare(file, step) for step in steps if step.has_weights}
    logits = CALIBRATION.forward(steps, weights, image, lambda step, output: seen.append((step, output.shape)))
    assert_close(logits, reference_logits(small_weights_file, image), "logits", 1e-5)
    for step, shape in seen:
        assert shape[:2] == step.out.shape[:2] and shape[2] in (3, 7, step.out.channels)


def test_scales_follow_the_ranges(small_weights_file, steps):
    scales = calibrate(small_weights_file, steps)
    assert len(scales) == 1 + 53 + 1 and all(np.isfinite(scale) and scale > 0 for scale, _ in scales.values())
    zeros = {name for name, (_, zero) in scales.items() if zero == 64}
    assert zeros == {"quantize", *(f"layer{stage}.0.downsample.0" for stage in (1, 2, 3, 4))}
    assert {zero for _, zero in scales.values()} == {0, 64}


def test_scales_are_kept_until_something_changes(
    small_weights_file, small_state, steps, measured, tmp_path, monkeypatch
):
    first = calibrate(small_weights_file, steps)
    again = calibrate(small_weights_file, steps)
    assert len(measured) == 1 and len(measured[0]) == 12
    assert {name: tuple(pair) for name, pair in again.items()} == first
    other = export(tmp_path / "other.safetensors", small_state | {"fc.bias": small_state["fc.bias"] + 1}, SIZE)
    calibrate(other, steps)
    assert len(measured) == 2
    monkeypatch.setattr(CALIBRATION, "PERCENTILE", 100)
    assert calibrate(small_weights_file, steps) != first and len(measured) == 3
    monkeypatch.setattr(CALIBRATION, "ZERO", 32)
    calibrate(small_weights_file, steps)
    assert len(measured) == 4
    monkeypatch.undo()


def test_threads_do_not_matter_and_nothing_is_skipped_that_counts(small_weights_file, steps, monkeypatch):
    found = [CALIBRATION.calibrate(small_weights_file, steps, SIZE, None, False, threads) for threads in (1, 5)]
    monkeypatch.setattr(CALIBRATION, "beyond", lambda size, known: True)
    assert found == [calibrate(small_weights_file, steps, cache=False)] * 2


def test_another_number_of_blas_threads_has_scales_of_its_own(small_weights_file, steps, measured, monkeypatch):
    calibrate(small_weights_file, steps)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "11")
    calibrate(small_weights_file, steps)
    assert len(measured) == 2


def test_without_a_cache_nothing_is_kept(small_weights_file, steps, measured, tmp_path, monkeypatch):
    calibrate(small_weights_file, steps, cache=False)
    assert not list(tmp_path.glob("cache/scales-*"))
    monkeypatch.setenv("RESNET50_CACHE", "")
    calibrate(small_weights_file, steps)
    assert len(measured) == 2


@pytest.mark.parametrize("damage", ["cut", "digit", "empty", "binary"])
def test_a_damaged_file_is_made_anew(damage, small_weights_file, steps, measured, tmp_path):
    right = calibrate(small_weights_file, steps)
    (file,) = (tmp_path / "cache").glob("scales-*.json")
    text = file.read_text()
    place = text.index('"conv1": [0.') + len('"conv1": [0.') + 1
    digit = text[:place] + ("1" if text[place] != "1" else "2") + text[place + 1 :]
    file.write_bytes(
        {"cut": text[:-20], "digit": digit, "empty": "", "binary": "\udcff"}[damage].encode("utf-8", "surrogateescape")
    )
    assert calibrate(small_weights_file, steps) == right and len(measured) == 2
    assert file.read_text() == text


def test_a_users_pictures_stay_in_force(small_weights_file, steps, measured, own_pictures, capsys):
    default = calibrate(small_weights_file, steps)
    own = calibrate(small_weights_file, steps, own_pictures)
    assert own != default and [path.name for path in measured[1]] == ["rocket_1.jpg", "rocket_2.jpg"]
    assert not capsys.readouterr().err
    kept = calibrate(small_weights_file, steps)
    assert {name: tuple(pair) for name, pair in kept.items()} == own and len(measured) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(own_pictures) in line and "--calibrate" in line
    calibrate(small_weights_file, steps, own_pictures)
    assert len(measured) == 2  # the same pictures
    shutil.copy(CALIBRATION.PICTURES / "coffee_1.jpg", own_pictures)
    calibrate(small_weights_file, steps, own_pictures)
    assert len(measured) == 3  # one more
    capsys.readouterr()
    assert calibrate(small_weights_file, steps, CALIBRATION.PICTURES) == default and len(measured) == 4
    calibrate(small_weights_file, steps)
    assert len(measured) == 4 and not capsys.readouterr().err


def test_pictures_are_read_one_at_a_time(small_weights_file, steps, monkeypatch):
    """Reading one catches warnings, which Python can do in one thread at a time only."""
    reading, load, read = threading.Lock(), CALIBRATION.load_image, []

    def alone(*arguments):
        assert reading.acquire(blocking=False)
        time.sleep(0.01)
        read.append(arguments)
        reading.release()
        return load(*arguments)

    monkeypatch.setattr(CALIBRATION, "load_image", alone)
    CALIBRATION.measure(small_weights_file, steps, SIZE, CALIBRATION.find_pictures(CALIBRATION.PICTURES), 3)
    assert len(read) == 12


def test_another_picture_size_has_scales_of_its_own(small_weights_file, steps, measured):
    calibrate(small_weights_file, steps)
    CALIBRATION.calibrate(small_weights_file, steps, 2 * SIZE, None, True)
    assert len(measured) == 2


def test_many_pictures_are_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr(CALIBRATION, "MANY", 4)
    for number in range(11):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number:02}.png")
    (tmp_path / "directory.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "none")
    assert [path.name for path in CALIBRATION.find_pictures(tmp_path)] == ["00.png", "03.png", "06.png", "09.png"]


def infer(weights, *arguments):
    command = [sys.executable, ROOT / "v8_int8" / "infer.py", ROOT / "samples" / "cat.jpg", "--weights", weights]
    return subprocess.run([*command, *arguments], capture_output=True, text=True)


def test_infer_calibrates_where_it_is_told_to(small_weights_file, own_pictures, tmp_path):
    first = infer(small_weights_file, "--json", "--calibrate", own_pictures)
    again = infer(small_weights_file, "--json")
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    found = [json.loads(done.stdout)["predictions"] for done in (first, again)]
    assert found[0] == found[1] and str(own_pictures) in again.stderr
    (own_pictures / "broken.jpg").write_bytes(b"no picture")
    for directory, reason in (own_pictures, "broken.jpg"), (tmp_path / "none", "none"), (tmp_path, "no directory"):
        bad = infer(small_weights_file, "--calibrate", directory)
        (line,) = (line for line in bad.stderr.splitlines() if not line.startswith("note: "))
        assert bad.returncode and line.startswith("error: ") and reason in line


def changed(small_state, name, change):
    return small_state | {name: change(small_state[name].copy())}


def put(index, value):
    def change(array):
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer2.1.conv2.weight", np.nan),
        ("layer3.0.bn1.running_var", np.nan),
        ("fc.bias", np.inf),
        ("conv1.weight", 3e38),
    ],
)
def test_weights_that_are_not_finite_are_refused_by_name(name, value, small_state, steps, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_file, "check_numbers", lambda tensors: None)  # the exporter refuses them, too
    path = export(tmp_path / "bad.safetensors", changed(small_state, name, put(0, value)), SIZE)
    with pytest.raises(V8.weights.WeightsError) as caught:
        calibrate(path, steps)
    layer = name.rpartition(".")[0].replace("bn", "conv")
    assert f"({layer} gives" in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


# A change to one tensor each. Those of a case are in layers of their own, and none hides another's output.
HARD = {
    "parts of tensors": {
        "a channel a thousand times the others": ("layer1.0.conv1.weight", lambda w: put(3, 1000 * w[3])(w)),
        "an input channel a thousand times the others": (
            "layer2.0.conv2.weight",
            lambda w: put((slice(None), 5), 1000 * w[:, 5])(w),
        ),
        "a channel of zeros": ("layer3.2.conv3.weight", put(7, 0)),
    },
    "tensors": {
        "a layer of zeros": ("layer2.1.conv1.weight", lambda w: 0 * w),
        "zero on every picture": ("layer1.1.bn1.bias", lambda b: b - 1e4),
        "weights of 1e-30": ("layer3.1.conv2.weight", lambda w: 1e-30 * w),
        "a variance of zero": ("layer1.0.bn2.running_var", lambda v: 0 * v),
    },
    "large": {"weights of 1e15": ("layer2.1.conv2.weight", lambda w: 1e15 * w)},
    "a stage that is zero on every picture": {"": ("layer4.2.bn3.bias", lambda b: b - 1e6)},
    "a classifier of zeros": {"": ("fc.weight", lambda w: 0 * w)},
}


@pytest.mark.parametrize("case", HARD)
def test_weights_that_quantise_badly_give_finite_logits(case, small_state, rng, tmp_path, one_cache, monkeypatch):
    monkeypatch.setenv("RESNET50_CACHE", one_cache)  # the code is the same
    state = small_state
    for name, change in HARD[case].values():
        state = changed(state, name, change)
    path = export(tmp_path / "hard.safetensors", state, SIZE)
    image = rng.standard_normal((SIZE, SIZE, 3)).astype(np.float32)
    isas = list(V8.compiler.Compiler().isas)
    logits = [V8.resnet50.ResNet50(path, SIZE, isa=isa).forward(image) for isa in (isas[0], isas[-1])]
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(*logits)
