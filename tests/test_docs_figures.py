"""The articles' pictures and the table of layers are what the code draws now, and say which weights they show."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench import network
from common.versions import ROOT
from common.architecture import expected_shapes
from docs.figures import buffers, layer_table, learned
from docs.figures.__main__ import ARTICLE, FROM_WEIGHTS, HERE, PICTURES, WEIGHTS, draw, main

NAMES = [*PICTURES, *FROM_WEIGHTS]
NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")


@pytest.fixture(scope="module")
def committed_weights(tmp_path_factory):
    """The weights that the committed pictures were drawn with."""
    directory = tmp_path_factory.mktemp("weights") / "resnet50"
    command = [sys.executable, "common/export_weights.py", "demo", "--out", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return directory


def same_picture(one, other):
    """Whether two files show the same; the last bits of coordinates and colours may differ between machines."""
    if one.suffix == ".svg":
        texts = [path.read_text(encoding="utf-8") for path in (one, other)]
        # What refers to a part by the hash of its numbers may be called differently.
        texts = [re.sub(r'(?<=id=")\w+|(?<=href="#)\w+|(?<=url\(#)\w+', "", text) for text in texts]
        numbers = [np.array(NUMBER.findall(text), dtype=float) for text in texts]
        return NUMBER.sub("", texts[0]) == NUMBER.sub("", texts[1]) and np.abs(numbers[0] - numbers[1]).max() <= 0.05
    first, second = (np.asarray(Image.open(path).convert("RGB"), dtype=float) for path in (one, other))
    return first.shape == second.shape and np.abs(first - second).mean() <= 1.5


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_picture_is_what_the_code_draws(name, committed_weights, tmp_path):
    weights = [committed_weights]
    if name in FROM_WEIGHTS and (WEIGHTS / "manifest.json").exists():
        weights.append(WEIGHTS)  # whoever has fetched weights may have drawn the pictures with them
    for directory in weights:
        draw(name, tmp_path / name, directory)
        if same_picture(tmp_path / name, HERE / name):
            return
    pytest.fail(f"{name} is not what the code draws: run `make figures`")


@pytest.mark.parametrize("name", ["filters.png", "roofline.svg"])
def test_drawing_twice_gives_the_same_file(name, small_weights_dir, tmp_path):
    for directory in ("one", "two"):
        (tmp_path / directory).mkdir()
        draw(name, tmp_path / directory / name, small_weights_dir)
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_changed_picture_is_noticed(small_weights_dir, tmp_path):
    draw("filters.png", tmp_path / "filters.png", small_weights_dir)  # other weights
    assert not same_picture(tmp_path / "filters.png", HERE / "filters.png")
    text = (HERE / "im2col.svg").read_text()
    for old, new in ((r"M (\d+)\.", r"M 1\1."), ("#e69f00|#E69F00", "#000000")):
        changed = re.sub(old, new, text, count=1)
        assert changed != text
        (tmp_path / "im2col.svg").write_text(changed)
        assert not same_picture(tmp_path / "im2col.svg", HERE / "im2col.svg")


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_small_and_white_behind(name):
    path = HERE / name
    assert path.stat().st_size < 200_000
    if path.suffix == ".png":
        with Image.open(path) as picture:
            assert picture.width == 1008 and picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    else:
        text = path.read_text()
        assert re.search(r'<svg [^>]*width="604.8pt"', text)
        background = re.search(r'<g id="patch_1">\s*<path [^>]*style="fill: #ffffff', text)
        assert background, "the first patch is the figure's background"


def test_every_picture_is_shown_and_described():
    shown = set()
    for page in [*ROOT.glob("docs/*.md"), *ROOT.glob("v*/README.md"), ROOT / "README.md"]:
        for text, name in re.findall(r"!\[([^\]]*)\]\([^)]*figures/([^)]+)\)", page.read_text(encoding="utf-8")):
            assert len(text) > 20, f"{page.name}: {name} has no description"
            shown.add(name)
    assert shown == set(NAMES)


def test_the_table_is_current(tmp_path):
    text = ARTICLE.read_text(encoding="utf-8")
    assert f"{layer_table.BEGIN}\n{layer_table.table()}\n{layer_table.END}" in text
    copy = tmp_path / "article.md"
    copy.write_text(text.replace("| 118,013,952 |", "| 1 |"), encoding="utf-8")
    layer_table.rewrite(copy)
    assert copy.read_text(encoding="utf-8") == text
    copy.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match=r"article\.md"):
        layer_table.rewrite(copy)


@given(image_size=st.integers(32, 600))
def test_the_tables_totals(image_size):
    """Any picture size has the same parameters, and the rows add up to the multiply-adds of the network."""
    *rows, last = layer_table.table(image_size).splitlines()[2:]
    parameters, work = zip(*(row.split(" | ")[-2:] for row in rows if row.split(" | ")[-2].strip()))
    parameters, work = (sum(int(re.sub(r"\D", "", cell)) for cell in cells) for cells in (parameters, work))
    assert last.endswith(f"| **{parameters:,}** | **{work:,}** |")
    assert parameters == 25_557_032 and 2 * work == network.flops(image_size)


def test_the_tables_parameters_are_those_of_the_network():
    """The shapes of the state dict, without batch norm's statistics, are counted by other code."""
    table = layer_table.table()
    shapes = {n: s for n, s in expected_shapes(1000).items() if "running" not in n}
    counted = sum(int(np.prod(shape)) for shape in shapes.values())
    assert table.splitlines()[-1].startswith(f"| | **together** | | | | **{counted:,}** |")
    assert re.findall(r"^\| (\d+) \|", table, re.M) == [str(number) for number in range(1, 51)]


@pytest.mark.parametrize("name", FROM_WEIGHTS)
def test_any_weights_can_be_drawn(name, small_weights_dir, tmp_path):
    draw(name, tmp_path / name, small_weights_dir)
    assert (tmp_path / name).stat().st_size > 5000


@pytest.mark.parametrize(
    ("source", "random"), [("synthetic seed 3", True), ("torchvision IMAGENET1K_V2", False), ("demo", False)]
)
@pytest.mark.parametrize("picture", [learned.filters, learned.feature_maps])
def test_a_picture_says_which_weights_it_shows(picture, source, random, small_weights_dir, tmp_path):
    for path in small_weights_dir.iterdir():
        (tmp_path / path.name).symlink_to(path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"source": source}))
    (note,) = [text.get_text() for text in picture(tmp_path).texts if "weights" in text.get_text().lower()]
    assert source in note.replace("\n", " ") and ("RANDOM" in note) is random


def test_buffers_that_are_drawn_side_by_side_never_overlap(small_weights_dir):
    """No two rectangles of the buffer plan share a step and a byte."""
    plan = buffers.recorded_model(small_weights_dir).plan
    last = len(plan.steps)
    spans = [(plan.taken[b], plan.released.get(b, last), b.offset, b.offset + b.size) for b in plan.buffers]
    assert len(spans) > 90 and all(start <= end for start, end, _, _ in spans)
    for index, (start, end, low, high) in enumerate(spans):
        for other_start, other_end, other_low, other_high in spans[:index]:
            assert end <= other_start or other_end <= start or high <= other_low or other_high <= low


class TestCommandLine:
    def run(self, monkeypatch, *arguments):
        monkeypatch.setattr(sys, "argv", ["docs.figures", *map(str, arguments)])
        return main()

    def test_one_picture(self, monkeypatch, tmp_path, capsys):
        assert self.run(monkeypatch, "activation_functions.svg", "--out", tmp_path / "new") == 0
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["activation_functions.svg"]
        assert capsys.readouterr().out.strip() == str(tmp_path / "new" / "activation_functions.svg")

    def test_all_of_them_and_the_table(self, monkeypatch, tmp_path):
        drawn, article = [], tmp_path / "article.md"
        article.write_text(f"before\n{layer_table.BEGIN}{layer_table.END}\nafter")
        monkeypatch.setattr("docs.figures.__main__.ARTICLE", article)
        monkeypatch.setattr("docs.figures.__main__.draw", lambda *arguments: drawn.append(arguments))
        assert self.run(monkeypatch, "--weights", tmp_path, "--out", tmp_path / "out") == 0
        assert drawn == [(name, tmp_path / "out" / name, tmp_path) for name in NAMES]
        assert layer_table.table() in article.read_text(encoding="utf-8")

    def test_an_unknown_picture(self, monkeypatch, capsys):
        with pytest.raises(SystemExit, match="2"):
            self.run(monkeypatch, "mona_lisa.svg")
        assert "mona_lisa.svg" in capsys.readouterr().err

    @pytest.mark.parametrize("name", FROM_WEIGHTS)
    def test_no_weights(self, name, monkeypatch, tmp_path, capsys):
        assert self.run(monkeypatch, name, "--weights", tmp_path, "--out", tmp_path) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and "export_weights.py" in error

    def test_a_file_in_the_way(self, monkeypatch, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        assert self.run(monkeypatch, "im2col.svg", "--out", tmp_path / "file") == 1
        assert capsys.readouterr().err.count("\n") == 1
