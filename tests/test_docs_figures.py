"""The articles' pictures and the table of layers are what the code draws now, and say which weights they show."""

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.testing.compare import compare_images

from common.architecture import flops, tensor_shapes
from common.versions import ROOT
from common.weights_file import IMAGENET_V1, write_weights
from docs.figures import layer_table, learned
from docs.figures.__main__ import HERE, NAMES, draw


def same_picture(one, other):
    """Whether two files show the same; the last bits of coordinates and colours may differ between machines."""
    if one.suffix == ".png":
        return compare_images(str(other), str(one), tol=5) is None  # a difference is drawn beside `one`
    # In an SVG, what refers to a part by the hash of its numbers may be called differently.
    texts = [
        re.sub(r'(?<=id=")\w+|(?<=href="#)\w+|(?<=url\(#)\w+', "", path.read_text("utf-8")) for path in (one, other)
    ]
    first, second = (re.split(r"(-?\d+\.?\d*(?:e-?\d+)?)", text) for text in texts)
    return first[::2] == second[::2] and np.allclose(*(np.array(t[1::2], float) for t in (first, second)), 0, 0.05)


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_picture_is_what_the_code_draws(name, demo_weights, tmp_path):
    draw(name, tmp_path / name, demo_weights)
    assert same_picture(tmp_path / name, HERE / name), "run `make figures` with the demo weights"


def test_a_changed_picture_is_noticed(small_weights_file, tmp_path):
    draw("filters.png", tmp_path / "filters.png", small_weights_file)  # other weights
    assert not same_picture(tmp_path / "filters.png", HERE / "filters.png")
    text = (HERE / "im2col.svg").read_text("utf-8")
    (tmp_path / "moved.svg").write_text(re.sub(r"M (\d+)\.", r"M 1\1.", text, count=1), encoding="utf-8")
    (tmp_path / "black.svg").write_text(text.replace("#e69f00", "#000000"), encoding="utf-8")
    assert not any(same_picture(tmp_path / name, HERE / "im2col.svg") for name in ("moved.svg", "black.svg"))


@given(image_size=st.integers(32, 600))
def test_the_tables_rows_add_up_to_the_network(image_size):
    *rows, last = layer_table.table(image_size).splitlines()[2:]
    cells = [[int(cell.replace(",", "") or 0) for cell in re.findall(r" ([\d,]*) \|", row)[-2:]] for row in rows]
    parameters, work = np.sum([own for own in cells if len(own) == 2], axis=0)
    trained = (np.prod(shape) for name, shape in tensor_shapes().items() if "running" not in name)
    assert parameters == sum(trained) and 2 * work == flops(image_size)
    assert last.endswith(f"| **{parameters:,}** | **{work:,}** |")
    assert [row.split()[1] for row in rows if row[2].isdigit()] == [str(number) for number in range(1, 51)]


@pytest.mark.parametrize("source", ["synthetic seed 3", "torchvision IMAGENET1K_V2", "demo"])
@pytest.mark.parametrize("picture", [learned.filters, learned.feature_maps])
def test_a_picture_says_which_weights_it_shows(picture, source, small_state, tmp_path):
    labels, preprocessing = [f"class {n}" for n in range(7)], IMAGENET_V1 | {"resize": 32, "crop": 32}
    write_weights(tmp_path / "w", small_state, source=source, labels=labels, preprocessing=preprocessing)
    (note,) = [text.get_text() for text in picture(tmp_path / "w").texts if "weights" in text.get_text().lower()]
    assert source in note.replace("\n", " ") and ("RANDOM" in note) is source.startswith("synthetic")


def test_weights_that_are_missing_are_one_line(tmp_path):
    command = [sys.executable, "-m", "docs.figures", "filters.png", "--weights", tmp_path / "none", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and re.fullmatch(r"error: .*export_weights\.py.*\n", done.stderr)
