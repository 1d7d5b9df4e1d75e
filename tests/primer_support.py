"""Shared by the primer's tests: its modules, its command lines, pictures of every kind."""

import re
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

PRIMER = Path(__file__).resolve().parents[1] / "primer"
MNIST = PRIMER.parents[1] / "shared" / "data" / "mnist_10k.npz"
SCRIPTS = {path.stem: path for path in sorted(PRIMER.glob("[0-5]_*/*.py"))}
seeds = st.integers(0, 2**32 - 1)


def load(name):
    """A module of the primer. Their names are all different, so they may stay in `sys.modules`."""
    for directory in (PRIMER, *PRIMER.glob("[0-9]_*")):
        if str(directory) not in sys.path:
            sys.path.append(str(directory))
    return import_module(name)


def call(name, *arguments):
    """A lesson's command line inside this process: None, or the status or the message with which it ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        try:
            load("lesson").run(load(name).main)
        except SystemExit as stop:
            return stop.code


def assert_one_line(message, *words):
    """An error that a reader can act on: one line that has each of `words`."""
    assert isinstance(message, str) and "\n" not in message
    for word in words:
        assert str(word) in message


def assert_articles_code_is_in(article, *sources):
    """Every ```python block of the article stands in a source, line by line, at whatever depth of indentation.

    An empty line in a block stands for what is left out.
    """
    text = "\n".join(source.read_text("utf-8") for source in sources)
    blocks = re.findall(r"```python\n(.*?)```", article.read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        for piece in re.split(r"\n\n+", block.rstrip()):
            pattern = r"\n\1".join(re.escape(line) for line in textwrap.dedent(piece).splitlines())
            assert re.search(rf"^( *){pattern}$", text, re.M), f"{article}:\n{piece}"


@st.composite
def pictures(draw, *dtypes, channels=None, max_side=24):
    """Arrays (h, w) or (h, w, channels), from 1x1 up, over the dtype's whole range; floats from 0 to 1."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    side = st.integers(1, max_side)
    shape = (draw(side), draw(side), *([channels] if channels else []))
    rng = np.random.default_rng(draw(seeds))
    kind = draw(st.sampled_from(["random", "constant", "extremes", "gradient"]))
    unit = {
        "random": lambda: rng.random(shape),
        "constant": lambda: np.broadcast_to(rng.random(shape[2:]), shape),
        "extremes": lambda: rng.integers(0, 2, shape).astype(float),
        "gradient": lambda: np.linspace(0, 1, int(np.prod(shape))).reshape(shape),
    }[kind]()
    if dtype.kind == "f":
        return unit.astype(dtype)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return np.rint(low + unit * (high - low)).astype(dtype)


def assert_close(actual, expected, tolerance):
    """Same shape and dtype, finite, and nowhere further apart than `tolerance`."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    assert np.isfinite(actual).all() and np.isfinite(expected).all()
    assert np.abs(actual - expected).max(initial=0) <= tolerance
