"""What a part of a version is worth: a copy with that part changed and the version as it is, taking turns.

An ablation is a few edits of the source, each a text that stands there once and what takes its place. The copies are
built, checked and timed like versions (see race.py).
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.experiments import ONE_THREAD, TURN, plural
from bench.inputs import Inputs
from bench.race import Entrant, race
from common.machine import available_cores
from common.versions import ROOT

AS_IT_IS = "as it is"


class Edit(NamedTuple):
    """In `file`, `new` instead of `old`."""

    file: str
    old: str
    new: str


# 2^24 numbers: im2col's matrix of pictures of up to 675 pixels.
KEPT = Edit("ops.py", "def conv2d(", "KEPT = np.empty(2**24, dtype=np.float32)\n\n\ndef conv2d(")
WEIGHTS = '[f"__builtin_prefetch({line});" for line in lines] + [f"next'
SECOND_LEVEL = Edit("ops.py", WEIGHTS, WEIGHTS.replace("{line}", "{line}, 0, 2"))
SIXTEEN = Edit("ops.py", "share > 4 * turns", "share > 16 * turns")
NOT_FETCHED_EARLY = {
    "weights are not fetched early": [Edit("ops.py", WEIGHTS, '[f"next')],
    "pixels are not fetched early": [Edit("ops.py", '["__builtin_prefetch(after);", f"after', '[f"after')],
    "the residual is not fetched early": [Edit("ops.py", "    if add:  # the", "    if False:  # the")],
}
BY_PIXELS = "by_pixels = panels * chunks * chunk < x.size"
SLEEP = {"threads sleep at once": [Edit("threads.py", "spins < 20000", "spins < 0")]}

UNCUT = Edit("threads.py", "FIRST = 6", "FIRST = 8")
# As if every core but the caller's were half as fast: after each call it spins for as long as the call took.
HALF_AS_FAST = [
    Edit("threads.py", "#include <stdlib.h>\n", "#include <stdlib.h>\n#include <time.h>\n"),
    Edit(
        "threads.py",
        "static void forward(",
        "static long now(void) {\n"
        "    struct timespec time;\n"
        "    clock_gettime(CLOCK_MONOTONIC, &time);\n"
        "    return 1000000000L * time.tv_sec + time.tv_nsec;\n"
        "}\n\n"
        "static long spin(long thread, long begun) {\n"
        "    for (long end = now(); thread > 0 && now() - end < end - begun;) {\n"
        "    }\n"
        "    return 1;\n"
        "}\n\n"
        "static void forward(",
    ),
    Edit(
        "threads.py",
        "steps[step](",
        "for (long begun = now(), over = 0; !over; over = spin(thread, begun)) steps[step](",
    ),
]


def tiles(condition: str, size: str) -> list[Edit]:
    """Version 7 with tiles of `size`, as Python text, where the condition holds."""
    first = "    wait = WAIT * isa.width\n"
    return [Edit("winograd.py", first, f"    if {condition}:\n        return {size}\n{first}")]


# {version: {what its copy does otherwise: the edits}}
ABLATIONS: dict[str, dict[str, list[Edit]]] = {}
ABLATIONS["v3_preload"] = {  # what version 4 changes, one by one
    "batch norm, ReLU and addition are in place": [
        Edit("ops.py", "return x + shift", "return np.add(x, shift, out=x)"),
        Edit("ops.py", "ZEROS[: x.shape[2]])", "ZEROS[: x.shape[2]], out=x)"),
        Edit("ops.py", "return x + y", "return np.add(x, y, out=x)"),
    ],
    "max pool's maxima are written into one array": [
        Edit("ops.py", "windows[..., 0, 0]", "windows[..., 0, 0].copy()"),
        Edit("ops.py", "out = np.maximum(out, windows[..., i, j])", "np.maximum(out, windows[..., i, j], out=out)"),
    ],
    "padding is written into a kept array": [
        KEPT,
        Edit(
            "ops.py",
            "        x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))\n",
            "        shape = x.shape[0] + 2 * padding, x.shape[1] + 2 * padding, x.shape[2]\n"
            "        padded = KEPT[: np.prod(shape)].reshape(shape)\n"
            "        padded.fill(0)\n"
            "        padded[padding:-padding, padding:-padding] = x\n"
            "        x = padded\n",
        ),
    ],
    "im2col's matrix is written into a kept array": [
        KEPT,
        Edit(
            "ops.py",
            "    columns = windows",
            "    if kernel_h > 1 or stride > 1:\n"
            "        kept = KEPT[: windows.size].reshape(windows.shape)\n"
            "        kept[...] = windows\n"
            "        windows = kept\n"
            "    columns = windows",
        ),
    ],
    "products are written into a kept array": [
        KEPT,
        Edit(
            "ops.py",
            "    return (columns @ weight.reshape(out_channels, -1).T)",
            "    out = KEPT[: out_h * out_w * out_channels].reshape(out_h * out_w, out_channels)\n"
            "    return np.matmul(columns, weight.reshape(out_channels, -1).T, out=out)",
        ),
    ],
}
ABLATIONS["v5_codegen"] = NOT_FETCHED_EARLY | {
    "weights are fetched in one burst for each group": [
        Edit("ops.py", "share / (turns * lanes // unroll if often else turns)", "share / groups"),
        Edit("ops.py", "channels + prefetch * often", "channels"),
        Edit("ops.py", "prefetch * (not often) + tap", "tap"),
        Edit("ops.py", "1, [*rows,", "1, [*prefetch, *rows,"),
    ],
    "weights are fetched into the second-level cache": [SECOND_LEVEL],
    "up to sixteen lines of weights at once": [SIXTEEN],
    "up to sixteen, into the second-level cache": [SIXTEEN, SECOND_LEVEL],
    "all input channels are one chunk": [Edit("ops.py", "if total <= n * most", "if n == 1")],
    "1×1 kernels have chunks as large as 3×3": [Edit("ops.py", "near if kernel == 1 else isa.l2", "isa.l2")],
    "tiles have one vector of output channels": [Edit("ops.py", "VECTORS = 2 ", "VECTORS = 1 ")],
    "1×1 with stride 2 skips through its input": [
        Edit("resnet50.py", "if stride > 1:  # gather", "if False:  # gather"),
        Edit("resnet50.py", 'downsample.1", relu=False)', 'downsample.1", stride, relu=False)'),
        Edit(
            "resnet50.py", "        if stride > 1:\n            self.plan", "        if False:\n            self.plan"
        ),
    ],
    "the compiler optimises less, -O1": [Edit("compiler.py", '"-O2"', '"-O1"')],
    "the compiler optimises more, -O3": [Edit("compiler.py", '"-O2"', '"-O3"')],
}
ABLATIONS["v6_threads"] = SLEEP | {
    "channels are divided everywhere": [Edit("ops.py", BY_PIXELS, "by_pixels = False")],
    "pixels are divided wherever there are several": [
        Edit("ops.py", BY_PIXELS, "by_pixels = out.height * out.width > 1")
    ],
    "Python calls step by step": [
        Edit(
            "resnet50.py",
            "            self.run(done, len(self.steps))",
            "            for step in range(done, len(self.steps)):\n                self.run(step, step + 1)",
        )
    ],
    "shares are not cut into parts": [UNCUT],
    "the other cores are half as fast": HALF_AS_FAST,
    "half as fast, shares are not cut": [*HALF_AS_FAST, UNCUT],
}
ABLATIONS["v7_winograd"] = {
    "7×7 is direct": tiles("out.height == 7 and stride == 1", "None"),
    "7×7 takes F(2×2)": tiles("out.height == 7 and stride == 1", "2, 2"),
    "14×14 takes F(2×2)": tiles("out.height == 14 and stride == 1", "2, 2"),
    "14×14 takes F(4×4)": tiles("out.height == 14 and stride == 1", "4, 4"),
    "stride 2 is direct": tiles("stride == 2", "None"),
    "every 3×3 takes F(2×2)": tiles("True", "2, 2"),
    "tiles are squares": [Edit("winograd.py", "size in SIZES:", "size in ((2, 2), (3, 3), (4, 4)):")],
    "strips have as many rows as fit": [Edit("winograd.py", "if out.channels >= rows * columns:", "if True:")],
}
ABLATIONS["v8_int8"] = NOT_FETCHED_EARLY | SLEEP


def edited(version: str, edits: Sequence[Edit], root: Path) -> None:
    """Copy a version to `root` and edit it. Raises ValueError if what an edit replaces does not stand there once."""
    directory = root / version
    shutil.copytree(ROOT / version, directory, ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in edits:
        text = (directory / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise ValueError(f"{version}/{file} has {old!r} {text.count(old)} times")
        (directory / file).write_text(text.replace(old, new), encoding="utf-8")


def ablations(inputs: Inputs, threads: int | None, names: Sequence[str] = (), rounds: int = 15) -> list[dict]:
    """Each version's ablations: on one thread, and on all cores where it can use them."""
    entries = []
    for version in names or ABLATIONS:
        counts = [threads] if threads else sorted({1, available_cores()})
        for count in [1] if version in ONE_THREAD else counts:
            with tempfile.TemporaryDirectory() as directory:
                entrants = {AS_IT_IS: Entrant(version, count)}
                for number, (text, edits) in enumerate(ABLATIONS[version].items()):
                    root = Path(directory, str(number))
                    edited(version, edits, root)
                    entrants[text] = Entrant(version, count, root=root)
                entries += race(entrants, inputs, group_name(version, count), rounds, duration=TURN)
    return entries


def group_name(version: str, threads: int) -> str:
    return f"ablations, {version}, {plural(threads, 'thread')}"


def named_in(results: dict) -> list[str]:
    """The versions whose ablations were measured, or failed."""
    groups = {item["group"] for item in results["benchmarks"] + results["failed"]}
    return [version for version in ABLATIONS if any(name.startswith(f"ablations, {version},") for name in groups)]
