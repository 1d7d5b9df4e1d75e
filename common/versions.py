"""The versions: their names, what each step may change, and a way to load one beside another.

Every version imports its neighbours as plain siblings (`from ops import conv2d`), so all use the same module names.
Loading one therefore means: put its directory first on `sys.path`, import its modules, and forget the names again. The
module objects live on in the namespace that is returned.
"""

import argparse
import difflib
import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Step:
    """What one version may change: everything else is byte-identical to the version `after`, which it goes on from."""

    after: str
    version: str
    files: frozenset[str]  # besides README.md and sample.c
    budget: int  # changed lines of Python, added and removed


STEPS = (
    Step("v1_loops", "v2_vectorized", frozenset({"infer.py", "ops.py", "resnet50.py"}), 165),
    Step("v2_vectorized", "v3_preload", frozenset({"ops.py", "resnet50.py", "weights.py"}), 80),
    Step("v3_preload", "v4_no_alloc", frozenset({"buffers.py", "ops.py", "resnet50.py"}), 220),
    Step(
        "v4_no_alloc",
        "v5_codegen",
        frozenset(
            {"buffers.py", "codegen.py", "compiler.py", "infer.py", "ops.py", "resnet50.py", "show.py", "weights.py"}
        ),
        870,
    ),
    Step("v5_codegen", "v6_threads", frozenset({"codegen.py", "infer.py", "ops.py", "resnet50.py", "threads.py"}), 320),
    Step("v6_threads", "v7_winograd", frozenset({"codegen.py", "resnet50.py", "weights.py", "winograd.py"}), 360),
    Step(
        "v6_threads",
        "v8_int8",
        frozenset(
            {"amx.py", "buffers.py", "calibration.py", "codegen.py", "compiler.py", "dot.h", "infer.py"}
            | {"ops.py", "resnet50.py", "weights.py"}
        ),
        440,
    ),
    Step(
        "v6_threads",
        "v9_ozaki",
        frozenset({"buffers.py", "codegen.py", "compiler.py", "ops.py", "ozaki.py", "resnet50.py", "weights.py"}),
        360,
    ),
)
VERSIONS = ("v1_loops", *(step.version for step in STEPS))
BEFORE = {step.version: step.after for step in STEPS}  # v7, v8 and v9 go on from v6
# Articles, a printout, and what version 6 has nothing like: int8's float32 forward, and its instructions and tiles.
NOT_COUNTED = {"README.md", "sample.c", "calibration.py", "dot.h", "amx.py"}


def named(known: Iterable[str], text: str) -> str:
    """Return the name that `text` is or begins: v5_codegen for v5. Raises argparse.ArgumentTypeError if none is."""
    for name in known:
        if text in (name, name.partition("_")[0]):
            return name
    raise argparse.ArgumentTypeError(f"there is no {text!r}; choose from {', '.join(known)}")


def files(version: str) -> dict[str, list[str]]:
    """{name: lines} of a version's directory."""
    paths = (path for path in sorted((ROOT / version).iterdir()) if path.is_file())
    return {path.name: path.read_text(encoding="utf-8").splitlines() for path in paths}


def changed_lines(before: list[str], after: list[str]) -> int:
    """Lines added and removed in difflib's unified diff, which the site shows; in long files `diff` finds fewer."""
    return sum(line[:1] in "+-" and line[:3] not in ("+++", "---") for line in difflib.unified_diff(before, after))


def load_version(name: str, root: Path = ROOT) -> SimpleNamespace:
    """Return a namespace with one attribute per module of the directory `root / name`.

    Each call imports afresh: two calls give two independent sets of modules. Raises ValueError if there is no such
    version.
    """
    directory = Path(root) / name
    if not (directory / "resnet50.py").is_file():
        raise ValueError(f"no version in {directory}; the versions are {', '.join(VERSIONS)}")
    names = sorted(path.stem for path in directory.glob("*.py"))
    hidden = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        return SimpleNamespace(name=name, directory=directory, **{n: importlib.import_module(n) for n in names})
    finally:
        sys.path.remove(str(directory))
        for module in names:
            sys.modules.pop(module, None)
        sys.modules.update(hidden)
