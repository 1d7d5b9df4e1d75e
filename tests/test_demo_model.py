"""The small model that the repository ships: its file, what it says of photographs, and its stated accuracy."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data

from common.versions import ROOT, VERSIONS
from common import export_weights
from evaluate import evaluate, sample
from pictures import find

DEMO = ROOT / "weights" / "demo"
ACCURACY = json.loads((DEMO / "accuracy.json").read_text())
SIZES = json.loads((DEMO / "sizes.json").read_text())
SHARED = ROOT.parent / "shared" / "data"  # on the machines of the project's own developers
CATS = {"tabby", "Egyptian cat", "Persian cat"}


@pytest.fixture(scope="module")
def demo_weights(tmp_path_factory):
    """The model unpacked, as a newcomer without network gets it."""
    out = tmp_path_factory.mktemp("demo") / "weights"
    assert export_weights.main(["demo", "--out", str(out)]) == 0
    return out


def answers(pictures, weights, version="v6_threads"):
    """What a version says of each picture, as (label, probability) pairs."""
    command = [sys.executable, ROOT / version / "infer.py", *pictures, "--weights", weights, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "our own small model, 200 classes; `make weights` fetches ImageNet's 1000" in result.stderr
    records = map(json.loads, result.stdout.splitlines())
    return [[(entry["label"], entry["probability"]) for entry in record["predictions"]] for record in records]


def test_the_file_is_small_and_complete(demo_weights):
    assert (DEMO / "resnet50.npz").stat().st_size < 25e6
    manifest = json.loads((demo_weights / "manifest.json").read_text())
    assert manifest["source"] == "demo" and manifest["num_classes"] == len(set(manifest["labels"])) == 200
    assert manifest["preprocessing"]["crop"] == manifest["preprocessing"]["resize"] == ACCURACY[0]["size"]


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_every_version_recognises_a_cat_and_a_cup_of_coffee(version, demo_weights):
    pictures = [Path(skimage.data.__file__).parent / name for name in ("chelsea.png", "coffee.png")]
    cat, coffee = (dict(found) for found in answers(pictures, demo_weights, version))
    assert cat.keys() & CATS and "espresso" in coffee


@pytest.mark.skipif(not (SHARED / "images" / "tabby.jpg").exists(), reason="this photograph is not in the repository")
def test_it_recognises_a_tabby(demo_weights):
    (found,) = answers([SHARED / "images" / "tabby.jpg"], demo_weights)
    assert dict(found).keys() & CATS


def test_the_readme_shows_what_the_demo_answers(demo_weights):
    (found,) = answers([ROOT / "samples" / "cat.jpg"], demo_weights)
    shown = re.findall(r"^ +([\d.]+) %  (.+)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert [label for _, label in shown] == [label for label, _ in found]
    assert all(abs(float(percent) - 100 * p) < 0.02 for (percent, _), (_, p) in zip(shown, found))


def test_the_card_shows_what_the_model_answers(demo_weights):
    pictures = [Path(skimage.data.__file__).parent / name for name in ("chelsea.png", "coffee.png", "rocket.jpg")]
    pictures += sorted((SHARED / "images").glob("*.jpg"))
    card = (DEMO / "README.md").read_text("utf-8")
    for picture, found in zip(pictures, answers(pictures, demo_weights), strict=True):
        (row,) = re.findall(rf"^\| {re.escape(picture.name)} \| (.+) \|$", card, re.MULTILINE)
        shown = re.findall(r"([^,]+?) (\d+) %(?:, |$)", row)
        assert [label for label, _ in shown] == [label for label, _ in found], picture.name
        assert all(abs(int(percent) - 100 * p) < 0.52 for (_, percent), (_, p) in zip(shown, found)), picture.name


def test_the_stated_accuracy_is_what_was_asked_for_and_what_the_card_says():
    card = (DEMO / "README.md").read_text("utf-8")
    for result in ACCURACY:
        assert result["weights"] == "demo" and f"{100 * result['top1']:.2f} %" in card
        assert f"{100 * result['top5']:.2f} %" in card and f"{result['pictures']:,}" in card
    whole = next(result for result in ACCURACY if result["version"] == "v6_threads")
    assert whole["pictures"] == 10_000 and whole["top1"] >= 0.42 and whole["top5"] >= 0.69
    assert re.search(r"\| training \|.*CPU", card)
    summary = f"names {whole['top1']:.0%} of such pictures right at once and {whole['top5']:.0%} among five"
    assert summary.replace("%", " %") in (ROOT / "README.md").read_text("utf-8")


def test_packing_cost_half_a_point_at_most():
    *whole, packed = SIZES
    assert packed["kernels"] == "int8" and {row["kernels"] for row in whole} == {"float32"}
    before = max(whole, key=lambda row: row["top1"])
    assert before["size"] == packed["size"] == ACCURACY[0]["size"]
    for key in ("top1", "top5"):
        assert packed[key] > before[key] - 0.005
        # What PyTorch measured of the packed network, our own versions find too.
        assert all(abs(result[key] - packed[key]) < 0.002 for result in ACCURACY if result["pictures"] == 10_000)
    card = (DEMO / "README.md").read_text("utf-8")
    assert all(f"{100 * row['top1']:.2f} % | {100 * row['top5']:.2f} %" in card for row in SIZES)


@pytest.mark.skipif(not (SHARED / "tiny_imagenet").is_dir(), reason="Tiny ImageNet is not in the repository")
def test_the_stated_accuracy_can_be_measured(demo_weights):
    """On 1,000 of the 10,000 pictures: within four standard errors, which chance leaves once in 16,000 times."""
    _, pictures, names = find(SHARED / "tiny_imagenet")
    measured = evaluate("v6_threads", sample(pictures, 1000), names, demo_weights)
    stated = next(result for result in ACCURACY if result["version"] == "v6_threads")
    for key in ("top1", "top5"):
        error = math.sqrt(stated[key] * (1 - stated[key]) / 1000)
        assert abs(measured[key] - stated[key]) < 4 * error, key
