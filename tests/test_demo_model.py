"""The small model that the repository ships: its file, what it says of photographs, and its stated accuracy."""

import json
import math
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data

from common.versions import ROOT
from common.weights_file import intact
from tests.conftest import make
from training.evaluate import evaluate
from training.pictures import find

DEMO = ROOT / "weights" / "demo"
CARD = (DEMO / "README.md").read_text("utf-8")
ACCURACY = json.loads((DEMO / "accuracy.json").read_text())
SIZES = json.loads((DEMO / "sizes.json").read_text())
SHARED = ROOT.parent / "shared" / "data"  # on the machines of the project's own developers
PHOTOGRAPHS = [Path(skimage.data.__file__).parent / name for name in ("chelsea.png", "coffee.png", "rocket.jpg")]


def answers(pictures, weights):
    """What version 6 says of each picture, as (label, probability) pairs."""
    command = [sys.executable, ROOT / "v6_threads" / "infer.py", *pictures, "--weights", weights, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert result.stderr.count("\n") == 1 and "our own small model, 200 classes" in result.stderr
    records = map(json.loads, result.stdout.splitlines())
    return [[(entry["label"], entry["probability"]) for entry in record["predictions"]] for record in records]


def test_the_packed_model_unpacks(demo_weights):
    assert (DEMO / "resnet50.npz").stat().st_size < 25e6
    manifest = intact(demo_weights)
    assert manifest["source"] == "demo" and manifest["num_classes"] == len(set(manifest["labels"])) == 200
    assert manifest["preprocessing"]["crop"] == manifest["preprocessing"]["resize"] == ACCURACY[0]["size"]


def test_readme_shows_what_make_demo_prints(demo_weights):
    """Without a network, to the second decimal; the times are left out."""
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = re.search(r"```\n(weights: demo.*?)```", readme, re.DOTALL)[1]
    recipe = make("-n", "demo", "OFFLINE=1").stdout.strip().rpartition("\n")[2]
    command = [sys.executable, *shlex.split(recipe)[1:], "--weights", demo_weights]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    first, rest = result.stdout.split("\n", 1)
    texts, numbers = [], []
    for text in (shown, f"{first}\n{result.stderr}{rest}"):
        texts.append(re.sub(r"\S+(?= %| ms)", "", text))
        numbers.append([float(number) for number in re.findall(r"([\d.]+) %", text)])
    assert texts[0] == texts[1] and numbers[0] == pytest.approx(numbers[1], abs=0.011)


def test_card_shows_what_the_model_answers(demo_weights):
    rows = {name: re.findall(r"([^,]+?) (\d+) %(?:, |$)", row)
            for name, row in re.findall(r"^\| (\S+\.(?:png|jpg)) \| (.+) \|$", CARD, re.MULTILINE)}  # fmt: skip
    pictures = [*PHOTOGRAPHS, *sorted((SHARED / "images").glob("*.jpg"))]
    for picture, found in zip(pictures, answers(pictures, demo_weights), strict=True):
        shown = rows[picture.name]
        assert [label for label, _ in shown] == [label for label, _ in found], picture.name
        assert all(abs(float(percent) - 100 * p) < 0.52 for (_, percent), (_, p) in zip(shown, found)), picture.name


def test_stated_accuracy_is_that_of_the_files():
    whole = next(result for result in ACCURACY if result["version"] == "v6_threads")
    assert whole["weights"] == "demo" and whole["pictures"] == 10_000
    for result in ACCURACY:
        assert "| {version} | {pictures:,} | {top1:.2%} | {top5:.2%} |".format(**result).replace("%", " %") in CARD
    for row in SIZES:
        assert "| {kernels} | {size}×{size} | {top1:.2%} | {top5:.2%} |".format(**row).replace("%", " %") in CARD
    summary = f"first answer is right for {whole['top1']:.0%}, and one of its first five for {whole['top5']:.0%}"
    assert summary.replace("%", " %") in (ROOT / "README.md").read_text("utf-8").replace("\n", " ")
    *sizes, packed = SIZES
    before = max(sizes, key=lambda row: row["top1"])
    for key in ("top1", "top5"):
        # Packing cost half a point at most, and our version finds what PyTorch measured of the packed network.
        assert packed[key] > before[key] - 0.005 and abs(whole[key] - packed[key]) < 0.002


@pytest.mark.skipif(not (SHARED / "tiny_imagenet").is_dir(), reason="Tiny ImageNet is not in the repository")
def test_the_stated_accuracy_can_be_measured(demo_weights):
    """On 500 of the 10,000 pictures: within four standard errors, which chance leaves once in 16,000 times."""
    _, pictures, names = find(SHARED / "tiny_imagenet")
    measured = evaluate("v6_threads", random.Random(0).sample(pictures, 500), names, demo_weights)
    for stated in ACCURACY:
        for key in ("top1", "top5"):
            error = math.sqrt(stated[key] * (1 - stated[key]) / 500)
            assert abs(measured[key] - stated[key]) < 4 * error, key
