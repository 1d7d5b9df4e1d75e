"""What an allocator costs that keeps nothing: versions 2 to 4 with glibc's settings, and with others.

`python docs/allocators.py [WEIGHTS]` takes half a minute. It writes docs/allocators.json, and from it the table in
v4_no_alloc/README.md.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tabulate import tabulate
from threadpoolctl import threadpool_limits

from bench.check import check_output
from bench.inputs import make_inputs
from bench.machine import generation, machine_info
from common.marked import fill
from common.versions import ROOT, VERSIONS, load_version

RESULTS, ARTICLE = ROOT / "docs" / "allocators.json", ROOT / "v4_no_alloc" / "README.md"
# For glibc: memory of 128 KiB and more comes from the kernel, and goes back to it as soon as it is free.
KEEPS_NOTHING = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "0"}
WARM, ROUNDS = 3, 15


def measured(version, weights):
    """Return (page faults, milliseconds of CPU time) of each of ROUNDS pictures. Raises WrongOutput."""
    model, inputs, found = load_version(version).resnet50.ResNet50(weights), make_inputs(224, Path(weights)), []
    for _ in range(WARM + ROUNDS):
        faults, start = getrusage(RUSAGE_SELF).ru_minflt, time.process_time()
        logits = model.forward(inputs.image)
        spent, faults = time.process_time() - start, getrusage(RUSAGE_SELF).ru_minflt - faults
        found.append((faults, 1e3 * spent))
    check_output(version, logits, inputs)
    return found[WARM:]


def table(results):
    """The article's table."""
    headings = ["", "page faults", "ms", "page faults, nothing kept", "ms, nothing kept"]
    text = tabulate(results["allocators"], headings, "pipe", floatfmt=".1f", intfmt=",")
    return f"\n{text}\n\nMeasured on {results['processor']}, one thread.\n\n"


def main(weights, version=None):
    if version:
        return print(json.dumps(measured(version, weights)))
    machine = machine_info()
    results = {"processor": f"{machine['processor']} ({generation(machine)})", "allocators": []}
    for version in VERSIONS[1:4]:
        command = [sys.executable, __file__, weights, version]
        outputs = [subprocess.check_output(command, env=os.environ | more) for more in ({}, KEEPS_NOTHING)]
        medians = np.median([json.loads(text) for text in outputs], axis=1)
        row = [number for faults, milliseconds in medians for number in (int(faults), milliseconds)]
        results["allocators"].append([f"`{version}`", *row])
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    ARTICLE.write_text(fill(ARTICLE.read_text("utf-8"), "allocators", table(results)), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    with threadpool_limits(1):  # of BLAS
        main(*(sys.argv[1:] or [str(ROOT / "weights" / "resnet50.safetensors")]))
