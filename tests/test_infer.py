"""The command line of every version, as a user runs it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from common.versions import ROOT, STEPS, VERSIONS, load_version
from tests.torch_reference import PROBES, torch_activations, torch_model

CAT = Path(skimage.data.__file__).parent / "chelsea.png"
each_version = pytest.mark.parametrize("version", VERSIONS)


def infer(version, *arguments, cwd=None, root=ROOT, **environment):
    command = [sys.executable, root / version / "infer.py", *arguments]
    environment = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, env=environment)


def records(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def cat_probabilities(small_state, small_weights_file):
    """The reference's seven probabilities for the cat."""
    v1 = load_version("v1_loops")
    image = v1.image.load_image(CAT, v1.weights.read_manifest(small_weights_file)["preprocessing"])
    logits = torch_activations(torch_model(small_state), image)["logits"]
    return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()


@pytest.fixture
def copied(small_weights_file, tmp_path):
    """A function that copies a version into a read-only directory, where the default weights are a link."""
    root = tmp_path / "some where"
    (root / "weights").mkdir(parents=True)
    (root / "weights" / "resnet50.safetensors").symlink_to(small_weights_file)
    directories = [root, root / "weights"]

    def copy(version):
        directories.append(shutil.copytree(ROOT / version, root / version, ignore=shutil.ignore_patterns("__*")))
        for directory in directories:
            directory.chmod(0o555)
        return root

    yield copy
    for directory in directories:
        directory.chmod(0o755)  # so that pytest can remove it


@each_version
def test_a_version_runs_on_its_own(version, copied, cat_probabilities, tmp_path):
    """Copied elsewhere, read-only, without a home, started from another directory, with the copy's default weights."""
    no_home = tmp_path / "no home"
    no_home.touch()  # a file: not even root can make a cache directory in it
    result = infer(version, CAT, "--json", "--top", "3", cwd=tmp_path, root=copied(version), HOME=str(no_home))
    assert result.returncode == 0, result.stderr
    (record,) = records(result)
    assert list(record) == ["picture", "predictions", "latency_ms", "weights"]
    assert record["picture"] == str(CAT) and record["latency_ms"] > 0 and record["weights"] == "synthetic for tests"
    if version == "v8_int8":  # random numbers in 8 bits have other winners; labelled pictures test that version
        return
    best = np.argsort(-cat_probabilities)[:3]
    assert [prediction["class"] for prediction in record["predictions"]] == list(best)
    assert [prediction["label"] for prediction in record["predictions"]] == [f"class {c}" for c in best]
    for prediction in record["predictions"]:
        assert abs(prediction["probability"] - cat_probabilities[prediction["class"]]) < 1e-4
    progress = [line.split()[0] for line in result.stderr.splitlines() if line.endswith(" left")]
    assert progress == (list(PROBES) if version == "v1_loops" else [])


@each_version
def test_missing_weights_are_one_line(version, tmp_path):
    result = infer(version, CAT, "--weights", tmp_path / "none")
    assert result.returncode == 1 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and "python common/export_weights.py" in result.stderr


def test_what_there_is_to_know_about_the_weights_is_one_line(tmp_path):
    exporter = [sys.executable, ROOT / "common" / "export_weights.py", "synthetic", "--num-classes", "7"]
    subprocess.run([*exporter, "--out", tmp_path / "w.safetensors"], check=True, capture_output=True)
    result = infer("v4_no_alloc", tmp_path / "none.jpg", "--weights", tmp_path / "w.safetensors")
    note, error = result.stderr.splitlines()
    assert note.startswith("note: ") and note.endswith("the predictions mean nothing") and error.startswith("error: ")
    assert result.stdout == "weights: synthetic seed 0 (7 classes)\n"


@pytest.fixture
def album(tmp_path):
    """A directory, with a space in its name, of two good pictures and two bad ones."""
    directory = tmp_path / "my album"
    directory.mkdir()
    Image.open(CAT).save(directory / "b cat.jpg")
    Image.new("L", (50, 40), 90).save(directory / "a gray.png")
    (directory / "c text.jpg").write_text("no picture")
    (directory / "d empty.png").write_bytes(b"")
    (directory / "notes.txt").write_text("not looked at")
    return directory


def test_a_directory_with_bad_pictures(album, small_weights_file):
    result = infer("v4_no_alloc", album, CAT, "--weights", small_weights_file, "--json")
    assert result.returncode == 1
    found = records(result)
    names = [Path(record["picture"]).name for record in found]
    assert names == ["a gray.png", "b cat.jpg", "c text.jpg", "d empty.png", "chelsea.png"]
    assert ["error" in record for record in found] == [False, False, True, True, False]
    assert "Traceback" not in result.stderr and "c text.jpg: not a readable picture" in result.stderr


def test_text_output(album, small_weights_file):
    result = infer("v4_no_alloc", "a gray.png", "b cat.jpg", "--weights", small_weights_file, "--top", "2", cwd=album)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "weights: synthetic for tests (7 classes)"
    assert lines[1].startswith("a gray.png (") and lines[1].endswith(" ms)") and lines[4].startswith("b cat.jpg (")
    assert len(lines) == 7
    for line in (lines[2], lines[3], lines[5], lines[6]):
        percent, label = line.split(" %  ")
        assert 0 <= float(percent) <= 100 and label.startswith("class ")


def test_missing_pictures_and_empty_directories(small_weights_file, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "missing.jpg", tmp_path / "empty", tmp_path / f"{'long' * 99}.jpg"):
        result = infer("v4_no_alloc", path, "--weights", small_weights_file)
        assert result.returncode == 1 and "Traceback" not in result.stderr
        note, error = result.stderr.splitlines()
        assert note.startswith("note: ") and error.startswith(f"error: {path}")


def test_a_name_that_is_no_text(small_weights_file, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(CAT, path)
    for option in ([], ["--json"]):
        result = infer("v4_no_alloc", path, "--weights", small_weights_file, *option)
        assert result.returncode == 0 and "Traceback" not in result.stderr


@pytest.mark.parametrize("version", [step.version for step in STEPS[3:] if "infer.py" in step.files])
def test_options_of_generated_code(version, small_weights_file):
    """In versions 7 and 9 infer.py is version 6's, as test_steps.py sees to."""
    result = infer(version, CAT, "--weights", small_weights_file, "--no-cache", "--json")
    assert result.returncode == 0, result.stderr
    result = infer(version, CAT, "--weights", small_weights_file, CC="/nonexistent/cc")
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "ziglang" in result.stderr
    if version != "v5_codegen":
        result = infer(version, CAT, "--weights", small_weights_file, "--threads", "3", "--json")
        assert result.returncode == 0, result.stderr
        result = infer(version, CAT, "--weights", small_weights_file, "--threads", "0")
        assert result.returncode == 1 and result.stderr.count("\n") == 1 and "threads" in result.stderr


def test_a_version_imports_nothing_heavy():
    for version in VERSIONS:
        code = f"from common.versions import load_version; load_version({version!r}); import sys; print(*sys.modules)"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
        assert not {"torch", "torchvision", "cv2", "onnxruntime", "scipy"} & set(result.stdout.split())
