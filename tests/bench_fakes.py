"""Fake versions for the benchmark's tests: directories with a `resnet50.py` that answers from a file.

Also a pytest plugin: with FAKES=DIRECTORY in the environment, `pytest -p tests.bench_fakes bench` times those there.
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from textwrap import dedent, indent

import numpy as np

import common.versions
from bench import inputs, worker

ROOT = common.versions.ROOT
NETWORK = """
import os, signal, sys, time
import numpy as np
{header}

class ResNet50:
    def __init__(self, weights_file, image_size=224):
        self.right = np.load(weights_file)
        self.calls = 0
{construct}

    def forward(self, image, probe=None):
        self.calls += 1
        y = self.right.copy()
{forward}
"""


def make_version(root, name, forward="return y", construct="pass", header=""):
    """Write a version whose forward runs the given lines; `y` holds the right float32 logits."""
    (root / name).mkdir()
    indented = {"construct": indent(dedent(construct), " " * 8), "forward": indent(dedent(forward), " " * 8)}
    (root / name / "resnet50.py").write_text(NETWORK.format(header=header, **indented))


def fake_inputs(root, rng=None):
    """Inputs whose "weights" are the right answers, made with `rng` unless they are there already."""
    if rng:
        np.save(root / "right.npy", rng.standard_normal(7).astype(np.float32))
    image, right = np.zeros((32, 32, 3), np.float32), np.load(root / "right.npy").astype(np.float64)
    return inputs.Inputs(root / "right.npy", 32, image, right, 10**6)


def run_pytest_bench(*arguments, fakes=None):
    """`pytest bench` as from a shell, without pytest-xdist's mark, which would switch pytest-benchmark off."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment["FAKES"] = str(fakes or "")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.bench_fakes", "bench"]
    command += map(str, arguments)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)


if fakes := os.environ.get("FAKES"):
    worker.Worker = partial(worker.Worker, root=fakes)
    common.versions.VERSIONS = tuple(sorted(path.name for path in Path(fakes).iterdir() if path.is_dir()))
    inputs.make_inputs = lambda size, weights: fake_inputs(Path(fakes))
