"""What the lessons have in common: run as a reader runs them; pictures in and out; bad input; articles; the sheet."""

import io
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.primer_support import PRIMER, SCRIPTS, assert_articles_code_is_in, assert_one_line, call, load


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(7).integers(0, 256, (31, 42, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_lesson_runs_as_its_article_says(name, tmp_path):
    """On the sample, with all stages; it is OpenCV's result but for rounding, and files appear where one is only."""
    before = sorted(PRIMER.glob("*/*.*"))
    command = [sys.executable, SCRIPTS[name], "--stages"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    result, figure = sorted(tmp_path.iterdir())
    assert re.fullmatch(rf"\w+_{name}\.png", result.name) and figure.name == f"{result.stem}_stages.jpg"
    assert sorted(PRIMER.glob("*/*.*")) == before
    lines = [line for line in done.stdout.splitlines() if "OpenCV" in line]
    assert lines and all(re.search(r" values differ, by at most [01]$", line) for line in lines)
    # What it drew is what the article shows.
    (shown,) = (path for path in SCRIPTS[name].parent.iterdir() if path.name in (f"{name}.png", f"{name}.jpg"))
    for new, old in ((result, shown), (figure, SCRIPTS[name].parent / f"{name}_stages.jpg")):
        new, old = (np.asarray(Image.open(path).convert("RGB"), np.float64) for path in (new, old))
        assert new.shape == old.shape and np.abs(new - old).mean() <= 5  # JPEG's loss, other fonts


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_smallest_picture_with_all_stages(name, tmp_path):
    Image.new("RGB", (1, 1), (200, 100, 50)).save(tmp_path / "small.png")
    assert call(name, tmp_path / "small.png", "--stages", "--out", tmp_path / "out.png") is None
    with Image.open(tmp_path / "out.png") as result, Image.open(tmp_path / "out_stages.jpg") as figure:
        assert result.size == (1, 1) and figure.width == 1080


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"])
def test_every_mode_is_read(mode, tmp_path):
    gray = np.linspace(0, 255, 35 * 20).astype(np.uint8).reshape(20, 35)
    image = Image.fromarray(gray.astype(np.uint16) * 257 if mode in ("I", "I;16") else gray)
    image.convert(mode).save(tmp_path / "picture.tif")
    for reading, shape in (("RGB", (20, 35, 3)), ("L", (20, 35))):
        picture = load("lesson").read_picture(tmp_path / "picture.tif", reading)
        assert picture.dtype == np.uint8 and picture.shape == shape
        error = np.abs(picture.reshape(20, 35, -1).mean(axis=2) - gray)
        assert error.mean() <= 90 if mode == "1" else error.max() <= (8 if mode == "P" else 1)


def test_sixteen_bits_are_cut_to_the_upper_eight(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / "gray.png")
    assert (load("lesson").read_picture(tmp_path / "gray.png", "L") == levels >> 8).all()


def test_pictures_stand_upright_on_white_paper(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGBA", (20, 8), (10, 20, 30, 0)).save(tmp_path / "clear.png", exif=exif)
    picture = load("lesson").read_picture(tmp_path / "clear.png", "RGB")
    assert picture.shape == (20, 8, 3) and (picture == 255).all()


def test_a_result_replaces_a_file_but_never_the_picture(photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original = photo.read_bytes()
    assert_one_line(call("gray", photo, "--out", "photo.png"), "photo.png is the picture itself")
    assert_one_line(call("gray", photo, "--out", "results"), "cannot write results: unknown file extension")
    assert_one_line(call("gray", ""), "gray.py: cannot read")
    photo.rename(tmp_path / "other_stages.jpg")
    assert_one_line(call("gray", "other_stages.jpg", "--stages", "--out", "other.png"), "other_stages.jpg is the")
    assert (tmp_path / "other_stages.jpg").read_bytes() == original and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "old.png").write_text("an old file")
    assert call("gray", "other_stages.jpg", "--out", "old.png") is None
    assert Image.open("old.png").size == (42, 31)


@pytest.mark.parametrize("name", SCRIPTS)
def test_files_that_are_no_pictures_are_one_line(name, tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    for bad, word in (("text.jpg", "cannot identify"), ("missing.png", "No such file"), (".", "directory")):
        assert_one_line(call(name, tmp_path / bad), f"{name}.py: cannot read {tmp_path / bad}", word)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]), st.floats(0, 0.95), st.binary(max_size=40))
def test_a_damaged_picture_is_one_line_or_still_a_picture(tmp_path, kind, keep, junk):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(buffer, kind)
    (tmp_path / "broken.bin").write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * keep)] + junk)
    out = tmp_path / "out.png"
    out.unlink(missing_ok=True)
    message = call("gray", tmp_path / "broken.bin", "--out", out)
    if message is not None:
        assert_one_line(message, "broken.bin")
    assert out.exists() == (message is None)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path):
    Image.new("1", (14_000, 14_000)).save(tmp_path / "bomb.png")
    assert_one_line(call("gray", tmp_path / "bomb.png"), "bomb.png", "decompression bomb")


@pytest.mark.parametrize(
    "command, word",
    [
        ("gray --out missing/out.png", "missing/out.png"), ("gray --out out", "extension"), ("rgb --turn nan", "turn"),
        ("mean_blur --size 0", "0 x 0"), ("mean_blur --size 1000", "1000"), ("gaussian_blur --sigma 0", "sigma"),
        ("gaussian_blur --sigma nan", "sigma"), ("gaussian_blur --sigma 1e9", "too large"),
        ("gaussian_blur --size 4", "odd"), ("canny --low -1", "-1"), ("canny --high nan", "nan"),
        ("canny --sigma -2", "-2"), ("canny --sigma nan", "nan"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_one_line(command, word, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *arguments = command.split()
    assert_one_line(call(name, photo, *arguments), f"{name}.py", word)
    assert list(tmp_path.iterdir()) == [photo]


@pytest.mark.parametrize(
    "function, shape, dtype, arguments",
    [
        ("gray.to_gray", (4, 4), "uint8", ()), ("gray.to_gray", (4, 4, 3), "int16", ()),
        ("rgb.rgb_to_yuv", (4, 4), "uint8", ()), ("rgb.rgb_to_hsv", (4, 4, 3), "uint16", ()),
        ("mean_blur.blur_direct", (4, 4), "uint8", ((3, 0),)),
        ("mean_blur.blur_integral", (4, 4), "uint8", ((3, 3), "mirror")),
        ("mean_blur.blur_separable", (4, 4), "uint8", ((3, 3), "wrap", (3, 0))),
        ("gaussian_blur.gaussian_blur", (4, 4), "uint8", (3, 1, "mirror")),
        ("canny.canny", (4, 4, 3), "uint8", (10, 20)), ("otsu.otsu_threshold", (0, 4), "uint8", ()),
    ],
)  # fmt: skip
def test_an_operator_refuses_what_it_is_not_written_for(function, shape, dtype, arguments):
    module, name = function.split(".")
    with pytest.raises(ValueError, match="expected"):
        getattr(load(module), name)(np.zeros(shape, dtype), *arguments)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_articles_code_and_options_are_the_scripts(name):
    article = SCRIPTS[name].parent / "README.md"
    assert_articles_code_is_in(article, SCRIPTS[name])
    for option in re.findall(r"(?<![\w-])--[a-z0-9]+", article.read_text("utf-8")):
        assert f'"{option}"' in SCRIPTS[name].read_text() + (PRIMER / "lesson.py").read_text(), option


def test_the_contact_sheet_shows_results_and_stops_at_a_failure(tmp_path, monkeypatch):
    sheet = load("contact_sheet")
    commands = [PRIMER / command.split()[0] for command, *_ in sheet.LESSONS]
    assert commands == [*SCRIPTS.values(), PRIMER / "6_mnist" / "mnist.py"]
    monkeypatch.setattr(sheet, "LESSONS", [("0_gray/gray.py", "gray.png", {"gray": "gray.png"})])
    assert call("contact_sheet", "--out", tmp_path / "new" / "sheet") is None
    with Image.open(tmp_path / "new" / "sheet" / "contact_sheet.png") as page:
        assert len(np.unique(page.convert("L").crop((0, 40, page.width // 4, page.height)))) > 50
    monkeypatch.setattr(sheet, "LESSONS", [("0_gray/gray.py missing.png", "gray.png", {})])
    assert_one_line(call("contact_sheet", "--out", tmp_path), "gray.py missing.png failed")
