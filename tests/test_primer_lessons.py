"""What lessons 0 to 5 have in common: the command line, pictures in and out, the articles, the contact sheet."""

import contextlib
import io
import re
import shutil
import sys
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.primer_support import LESSONS, PRIMER, is_excerpt, load, run, script, snippets

SHARED = PRIMER.parents[1] / "shared" / "data" / "images"


def mean_difference(first, second):
    """Of two picture files of the same size, in levels."""
    with Image.open(first) as a, Image.open(second) as b:
        assert a.size == b.size and a.mode == b.mode
        return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean()


def call(name, *arguments):
    """A lesson's command line inside this process, as if OpenCV were missing: (exit status, stdout, stderr)."""
    module = load(name)
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", [str(script(name)), *map(str, arguments)])
        patch.setitem(sys.modules, "cv2", None)
        try:
            module.lesson.run(module.main)
        except SystemExit as stop:
            if isinstance(stop.code, str):
                return 1, out.getvalue(), err.getvalue() + stop.code + "\n"
            return stop.code, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def assert_one_line(result, *words):
    """An error that a reader can act on: not zero, one line, which names the lesson and each of `words`."""
    status, _, err = result
    assert status in (1, 2) and err.count("\n") == 1 and "Traceback" not in err
    for word in words:
        assert str(word) in err


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(7)
    path = tmp_path / "photo.png"
    Image.fromarray(rng.integers(0, 256, (31, 42, 3), dtype=np.uint8)).save(path)
    return path


# The directory of a lesson

def test_the_plumbing_is_the_same_file_in_every_lesson():
    assert len({(PRIMER / name / "lesson.py").read_bytes() for name in LESSONS}) == 1


@pytest.mark.parametrize("name", LESSONS)
def test_a_copied_directory_runs_and_writes_where_one_is(name, photo, tmp_path):
    """Nothing appears beside the script or beside the picture."""
    copy = tmp_path / "elsewhere"
    shutil.copytree(PRIMER / name, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = sorted(path.name for path in copy.iterdir())
    here = tmp_path / "here"
    here.mkdir()
    done = run(name, photo, cwd=here, file=copy / script(name).name)
    assert done.returncode == 0 and done.stderr == ""
    stem = script(name).stem
    assert [path.name for path in here.iterdir()] == [f"photo_{stem}.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "here", "photo.png"]
    assert before == sorted(path.name for path in copy.iterdir() if path.name != "__pycache__")
    lines = [line for line in done.stdout.splitlines() if "OpenCV" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(r".+: [\d.]+ ms here, [\d.]+ ms in OpenCV [\d.]+ on \d+ threads?, [\d.]+ times as long; "
                            r"\d+ of \d+ values differ, by at most [01]", line)


@pytest.mark.parametrize("name", LESSONS)
def test_the_committed_picture_is_the_one_the_lesson_makes(name, tmp_path):
    """From scikit-image's sample; its figure of stages as well, but for the fonts of another matplotlib."""
    committed, = (path for path in (PRIMER / name).iterdir()
                  if path.stem == script(name).stem and path.suffix in (".png", ".jpg"))
    again = tmp_path / committed.name
    assert call(name, "--out", again, "--stages")[0] == 0
    tolerance = 0 if committed.suffix == ".png" else 0.5  # on average: encoders of JPEG differ
    assert mean_difference(committed, again) <= tolerance
    stages = f"{committed.stem}_stages.jpg"
    assert mean_difference(PRIMER / name / stages, tmp_path / stages) <= 5


# The articles

@pytest.mark.parametrize("name", LESSONS)
def test_the_articles_code_is_the_scripts(name):
    source = script(name).read_text("utf-8")
    assert len(snippets(name)) >= 2
    for snippet in snippets(name):
        assert is_excerpt(snippet, source), f"not in {script(name).name}:\n{snippet}"


def test_an_excerpt_that_was_changed_is_noticed():
    source = "def f(x):\n    y = x + 1\n    return y\n"
    assert is_excerpt("y = x + 1\nreturn y\n", source) and is_excerpt("    return y\n", source)
    assert not is_excerpt("y = x + 2\nreturn y\n", source) and not is_excerpt("y = x + 1\nreturn x\n", source)


@pytest.mark.parametrize("name", LESSONS)
def test_the_articles_pictures_and_links_exist_and_are_small(name):
    article = (PRIMER / name / "README.md").read_text("utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", article)
    assert any(link.endswith((".png", ".jpg")) for link in links)
    for link in links:
        if "6_mnist" not in link:
            assert (PRIMER / name / link).is_file(), link
    for picture in [*(PRIMER / name).glob("*.png"), *(PRIMER / name).glob("*.jpg")]:
        assert picture.stat().st_size < 200_000
    for heading in ("## What it has to do with ResNet-50", "## Exercises", "## References"):
        assert heading in article


@pytest.mark.parametrize("name", LESSONS)
def test_the_articles_commands_are_understood(name):
    """Every option that an article's commands use exists."""
    article = (PRIMER / name / "README.md").read_text("utf-8")
    known = call(name, "--help")[1]
    for option in re.findall(r"(?<![\w-])--[a-z0-9]+", article):
        assert option in known, option


# What a lesson does without the packages that it can do without

@pytest.mark.parametrize("missing, arguments, status, said", [
    ("cv2", ["{photo}"], 0, "to compare with OpenCV: pip install opencv-python-headless"),
    ("skimage", [], 1, "pip install scikit-image"),
    ("matplotlib", ["{photo}", "--stages"], 1, "pip install matplotlib"),
])
def test_says_in_one_line_what_to_install(missing, arguments, status, said, photo, tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / f"{missing}.py").write_text("raise ImportError('not here')")
    arguments = [argument.format(photo=photo) for argument in arguments]
    done = run("0_gray", *arguments, cwd=tmp_path, environment={"PYTHONPATH": str(tmp_path / "hidden")})
    assert done.returncode == status and said in (done.stderr if status else done.stdout)
    assert done.stderr.count("\n") == status


# Pictures of every kind

@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"])
def test_reads_every_mode(mode, tmp_path):
    gray = np.linspace(0, 255, 35 * 20).astype(np.uint8).reshape(20, 35)
    image = Image.fromarray(gray)
    if mode in ("I", "I;16"):
        image = Image.fromarray(gray.astype(np.uint16) * 257)
    image.convert(mode).save(tmp_path / "picture.tif")
    for name, reading in (("0_gray", "RGB"), ("4_canny", "L")):
        module = load(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["lesson.py", str(tmp_path / "picture.tif")])
            arguments = module.lesson.Parser("Title\n", sample="coins").parse_args()
        picture = module.lesson.read_picture(arguments, reading)
        assert picture.dtype == np.uint8 and picture.shape == ((20, 35, 3) if reading == "RGB" else (20, 35))
        brightness = picture.reshape(20, 35, -1).mean(axis=2)
        if mode != "1":
            assert np.abs(brightness - gray).max() <= (8 if mode == "P" else 1)


def test_transparent_pixels_are_white(tmp_path):
    Image.new("RGBA", (5, 4), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert call("0_gray", tmp_path / "clear.png", "--out", tmp_path / "gray.png")[0] == 0
    assert (np.asarray(Image.open(tmp_path / "gray.png")) == 255).all()


def test_exif_turns_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(np.zeros((8, 20, 3), np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    assert call("0_gray", tmp_path / "turned.jpg", "--out", tmp_path / "gray.png")[0] == 0
    assert Image.open(tmp_path / "gray.png").size == (8, 20)


@pytest.mark.parametrize("name", LESSONS)
@pytest.mark.parametrize("size", [(1, 1), (37, 1)])
def test_the_smallest_pictures_with_all_stages(name, size, tmp_path):
    Image.new("RGB", size, (200, 100, 50)).save(tmp_path / "small.png")
    out = tmp_path / "out.png"
    status, _, err = call(name, tmp_path / "small.png", "--stages", "--out", out)
    assert (status, err) == (0, "")
    assert Image.open(out).size == size and (tmp_path / "out_stages.jpg").is_file()


def test_photographs(tmp_path):
    """Real photographs, where there are some; else scikit-image's."""
    import skimage.data

    pictures = sorted(SHARED.glob("*.jpg")) if SHARED.is_dir() else []
    if not pictures:
        Image.fromarray(skimage.data.rocket()).save(tmp_path / "rocket.jpg")
        pictures = [tmp_path / "rocket.jpg"]
    for picture in pictures:
        status, _, err = call("0_gray", picture, "--out", tmp_path / f"gray_{picture.stem}.jpg")
        assert (status, err) == (0, "")
        assert len(np.unique(np.asarray(Image.open(tmp_path / f"gray_{picture.stem}.jpg")))) > 50


# Bad input: one line, and nothing lost

@pytest.mark.parametrize("name", LESSONS)
def test_a_file_that_is_no_picture(name, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    assert_one_line(call(name, text), script(name).name, text)
    assert_one_line(call(name, tmp_path / "missing.png"), "missing.png", "No such file")
    assert_one_line(call(name, tmp_path), tmp_path, "directory")
    assert list(tmp_path.iterdir()) == [text]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(kind=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]), keep=st.floats(0, 0.95),
       junk=st.binary(max_size=40))
def test_a_damaged_picture_is_one_line_or_still_a_picture(kind, keep, junk, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(buffer, kind)
    data = buffer.getvalue()
    (tmp_path / "broken.bin").write_bytes(data[: int(len(data) * keep)] + junk)
    out = tmp_path / "out.png"
    out.unlink(missing_ok=True)
    result = call("0_gray", tmp_path / "broken.bin", "--out", out)
    if result[0] == 0:
        assert out.is_file() and result[2] == ""
    else:
        assert_one_line(result, "broken.bin")
        assert not out.exists()


@pytest.mark.parametrize("side", [11_000, 20_000])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(side, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    assert_one_line(call("0_gray", tmp_path / "bomb.png"), "bomb.png", "decompression bomb")


@pytest.mark.parametrize("name, arguments, word", [
    *[(name, ["--nonsense"], "nonsense") for name in LESSONS],
    *[(name, ["second.png"], "second.png") for name in LESSONS],
    ("1_rgb", ["--turn", "round"], "--turn"), ("1_rgb", ["--turn", "nan"], "--turn"),
    ("2_mean_blur", ["--size", "0"], "0 x 0"), ("2_mean_blur", ["--size", "-3"], "-3 x -3"),
    ("2_mean_blur", ["--size", "1000"], "1000"), ("2_mean_blur", ["--size", "2.5"], "2.5"),
    ("2_mean_blur", ["--border", "mirror"], "mirror"), ("2_mean_blur", ["--method", "magic"], "magic"),
    ("3_gaussian_blur", ["--sigma", "0"], "sigma"), ("3_gaussian_blur", ["--sigma", "-1"], "sigma"),
    ("3_gaussian_blur", ["--sigma", "nan"], "sigma"), ("3_gaussian_blur", ["--sigma", "1e9"], "too large"),
    ("3_gaussian_blur", ["--size", "4"], "odd"), ("3_gaussian_blur", ["--size", "0"], "odd"),
    ("4_canny", ["--low", "-1"], "-1"), ("4_canny", ["--high", "nan"], "nan"), ("4_canny", ["--sigma", "-2"], "-2"),
])
def test_a_bad_argument(name, arguments, word, photo, tmp_path):
    assert_one_line(call(name, photo, "--out", tmp_path / "out.png", *arguments), script(name).name, word)
    assert list(tmp_path.iterdir()) == [photo]


def test_files_that_are_not_ours_are_not_overwritten(photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original = photo.read_bytes()
    assert_one_line(call("0_gray", photo, "--out", photo), "photo.png exists")
    (tmp_path / "photo_gray.png").write_bytes(original)  # a user's own picture that happens to have this name
    assert_one_line(call("0_gray", photo), "photo_gray.png exists")
    assert photo.read_bytes() == (tmp_path / "photo_gray.png").read_bytes() == original
    (tmp_path / "notes.png").write_text("words")
    assert_one_line(call("0_gray", photo, "--out", "notes.png"), "notes.png exists")
    assert (tmp_path / "notes.png").read_text() == "words"


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_only_a_lessons_own_earlier_result_is_replaced(suffix, photo, tmp_path):
    out = tmp_path / f"result{suffix}"
    assert call("0_gray", photo, "--out", out, "--stages")[0] == 0
    first = out.read_bytes()
    assert call("0_gray", photo, "--out", out, "--stages")[0] == 0
    assert out.read_bytes() == first
    assert_one_line(call("4_canny", photo, "--out", out), "exists")
    assert_one_line(call("0_gray", out, "--out", out), "exists")  # its own, but also its input
    assert out.read_bytes() == first


@pytest.mark.parametrize("out", ["missing/directory/out.png", "out.gif", "out", "folder.png"])
def test_an_out_that_cannot_be_written(out, photo, tmp_path):
    (tmp_path / "folder.png").mkdir()
    assert_one_line(call("0_gray", photo, "--out", tmp_path / out), out)


# The contact sheet

@pytest.fixture
def contact_sheet(monkeypatch):
    monkeypatch.syspath_prepend(PRIMER)
    import contact_sheet

    yield contact_sheet
    sys.modules.pop("contact_sheet")


def test_the_contact_sheet_has_every_lesson(contact_sheet):
    assert [entry[0].split("/")[0] for entry in contact_sheet.LESSONS] == [*LESSONS, "6_mnist"]
    for source, *_ in contact_sheet.LESSONS:
        assert (PRIMER / source).is_file()


def test_the_contact_sheet_runs_its_lessons(contact_sheet, monkeypatch, tmp_path, capfd):
    gray, otsu = contact_sheet.LESSONS[0], contact_sheet.LESSONS[5]
    monkeypatch.setattr(contact_sheet, "LESSONS", [(gray[0], [], *gray[2:]), (otsu[0], [], *otsu[2:])])
    monkeypatch.setattr(sys, "argv", ["contact_sheet.py", "--out", str(tmp_path / "new" / "sheet")])
    contact_sheet.main()
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet" / "contact_sheet.png"))
    assert sheet.shape == (360, 4 * 440, 3)
    for cell in (sheet[:, :440], sheet[:, 440:880]):
        assert len(np.unique(cell[40:])) > 1
    assert (sheet[:, 880:] == 255).all()


def test_the_contact_sheet_stops_at_a_lesson_that_fails(contact_sheet, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(contact_sheet, "LESSONS", [("0_gray/gray.py", ["--nonsense"], "gray.png", {})])
    monkeypatch.setattr(sys, "argv", ["contact_sheet.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"gray\.py failed"):
        contact_sheet.main()
    assert "nonsense" in capfd.readouterr().err
