"""Shared by the tests of the primer's lessons 0 to 5."""

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

PRIMER = Path(__file__).resolve().parents[1] / "primer"
LESSONS = ("0_gray", "1_rgb", "2_mean_blur", "3_gaussian_blur", "4_canny", "5_otsu")


def script(name):
    """The one script of the lesson in directory `name`."""
    return PRIMER / name / f"{name.split('_', 1)[1]}.py"


def load(name):
    """A lesson's module, with its own copy of `lesson.py`; neither stays in `sys.modules`."""
    path = script(name)
    hidden = sys.modules.pop("lesson", None)
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(f"primer_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(path.parent))
        sys.modules.pop("lesson", None)
        if hidden is not None:
            sys.modules["lesson"] = hidden


def run(name, *arguments, cwd, environment=None, file=None):
    """Run a lesson's script, or the copy of it in `file`, as a reader does."""
    return subprocess.run([sys.executable, str(file or script(name)), *map(str, arguments)], cwd=cwd, text=True,
                          capture_output=True, timeout=120, env={**os.environ, **(environment or {})})


def snippets(name):
    """Every ```python block of a lesson's article."""
    return re.findall(r"```python\n(.*?)```", (PRIMER / name / "README.md").read_text("utf-8"), re.DOTALL)


def is_excerpt(snippet, source):
    """Whether `snippet` stands in `source` line by line, at whatever depth of indentation."""
    lines = snippet.rstrip("\n").count("\n") + 1
    rows = source.splitlines()
    wanted = textwrap.dedent(snippet).rstrip("\n")
    return any(textwrap.dedent("\n".join(rows[i:i + lines])) == wanted for i in range(len(rows)))


@st.composite
def pictures(draw, dtypes, channels=None, max_side=24):
    """Arrays (h, w) or (h, w, channels), from 1x1 up, over the dtype's whole range; floats from 0 to 1."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    side = st.integers(1, max_side)
    shape = (draw(side), draw(side), *([channels] if channels else []))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["random", "constant", "extremes", "gradient"]))
    if kind == "random":
        unit = rng.random(shape)
    elif kind == "constant":
        unit = np.broadcast_to(rng.random(shape[2:]), shape)
    elif kind == "extremes":
        unit = rng.integers(0, 2, shape).astype(float)
    else:
        unit = np.linspace(0, 1, int(np.prod(shape))).reshape(shape)
    if dtype.kind == "f":
        return unit.astype(dtype)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return np.rint(low + unit * (high - low)).astype(dtype)


def assert_close(actual, expected, tolerance):
    """Same shape, finite, and nowhere further apart than `tolerance`."""
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    assert np.isfinite(actual).all() and np.isfinite(expected).all()
    assert np.abs(actual - expected).max() <= tolerance
