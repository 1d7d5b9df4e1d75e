"""Fake versions for the benchmark's tests: directories with a `resnet50.py` that answers from a file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
NETWORK = """
import os, signal, sys, time
import numpy as np
{header}

class ResNet50:
    def __init__(self, weights_dir, image_size=224):
        self.right = np.load(os.path.join(weights_dir, "right.npy"))
        self.calls = 0
{construct}

    def forward(self, image, probe=None):
        self.calls += 1
        y = self.right.copy()
{forward}
"""


def make_version(root, name, forward="return y", construct="pass", header=""):
    """Write a version whose forward runs the given lines; `y` holds the right float32 logits."""
    directory = root / name
    directory.mkdir(parents=True)
    indented = {"construct": indent(dedent(construct), " " * 8), "forward": indent(dedent(forward), " " * 8)}
    (directory / "resnet50.py").write_text(NETWORK.format(header=header, **indented))


def write_answers(directory, rng, num_classes=7):
    """Write the right logits, and those of another picture, as a weights directory of fakes; return the right ones."""
    right, other = rng.standard_normal((2, num_classes))
    np.save(directory / "right.npy", right.astype(np.float32))
    np.save(directory / "other_picture.npy", other.astype(np.float32))
    return right.astype(np.float32).astype(np.float64)


def clean_environment():
    """This process's environment without pytest-xdist's mark, which would switch pytest-benchmark off."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}


def run_python(code, *arguments, **options):
    """Run Python code in the repository, in a process of its own. Return the CompletedProcess."""
    return subprocess.run([sys.executable, "-c", dedent(code), *map(str, arguments)], cwd=ROOT, text=True,
                          capture_output=True, env=clean_environment(), timeout=100, **options)


MEASURE = """
    import json, sys
    from pathlib import Path
    import numpy as np
    from bench import latency

    class Silent:
        start = stage = tick = finish = lambda self, *_: None

    root, names, budget = Path(sys.argv[1]), sys.argv[2].split(","), float(sys.argv[3])
    right = np.load(root / "right.npy").astype(np.float64)
    inputs = (root, np.zeros((32, 32, 3), np.float32), right)
    experiment = latency.Experiment(names, inputs, 1, budget, root, Silent())
    latency.measure(experiment)
    print(json.dumps([experiment.benchmarks, experiment.failed]))
"""


def measure_latency(root, names, budget=0.05):
    """Measure fakes with pytest-benchmark. Return ({name: benchmark}, {name: reason of failure})."""
    done = run_python(MEASURE, root, ",".join(names), budget)
    assert done.returncode == 0, done.stderr
    benchmarks, failed = json.loads(done.stdout)
    return {b["name"]: b for b in benchmarks}, {f["name"]: f["reason"] for f in failed}
