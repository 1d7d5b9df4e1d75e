"""What version 4 saves: version 3 with one of its changes at a time; and what an allocator costs that keeps nothing.

`python docs/ablation.py [WEIGHTS]` takes a minute and a half. It writes docs/ablation.json, and from it the tables
in v4_no_alloc/README.md.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cpuinfo
import numpy as np
from tabulate import tabulate
from threadpoolctl import threadpool_limits

from common.marked import fill
from common.versions import ROOT, VERSIONS, load_version

RESULTS, ARTICLE = ROOT / "docs" / "ablation.json", ROOT / "v4_no_alloc" / "README.md"
IN_PLACE, PADDING = "batch norm, ReLU and addition in place", "padding into a kept array, without `np.pad`"
COLUMNS, PRODUCT = "im2col's matrix into a kept array", "the product into a kept array"
VARIANTS = ("`v3_preload`", IN_PLACE, PADDING, COLUMNS, PRODUCT, "all of it: `v4_no_alloc`")
# For glibc: memory of 128 KiB and more comes from the kernel, and goes back to it as soon as it is free.
KEEPS_NOTHING = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "0"}


def variant(name, weights):
    """Return version 3 with that one change, or version 4."""
    if name == VARIANTS[-1]:
        return load_version("v4_no_alloc").resnet50.ResNet50(weights)
    version, version4 = load_version("v3_preload"), load_version("v4_no_alloc")
    network, kept = version.resnet50, np.empty(2**21, dtype=np.float32)

    def array(change, *shape):
        """The kept memory in the variant that has this change, else a new array."""
        return kept[: np.prod(shape)].reshape(shape) if change == name else np.empty(shape, dtype=np.float32)

    def pad(x, widths, constant_values=0):
        border = widths[0][0]
        padded = array(PADDING, x.shape[0] + 2 * border, x.shape[1] + 2 * border, x.shape[2])
        padded.fill(constant_values)
        padded[border:-border, border:-border] = x
        return padded

    def conv2d(x, weight, stride=1, padding=0):
        x = np.pad(x, ((padding, padding), (padding, padding), (0, 0))) if padding else x
        out_channels, kernel, _, _ = weight.shape
        out_h, out_w = ((size - kernel) // stride + 1 for size in x.shape[:2])
        columns = array(COLUMNS, out_h * out_w, weight[0].size) if kernel > 1 or stride > 1 else None
        out = array(PRODUCT, out_h, out_w, out_channels)
        version4.ops.conv2d(x, weight, stride, 0, None, columns, out)
        return out

    if name == IN_PLACE:
        network.batch_norm = network.add = lambda x, y: np.add(x, y, out=x)
        network.relu = lambda x: np.maximum(x, version.ops.ZEROS[: x.shape[2]], out=x)
    elif name == PADDING:
        version.ops.np = SimpleNamespace(**vars(np) | {"pad": pad})  # NumPy as this version's operators see it
    elif name in (COLUMNS, PRODUCT):
        network.conv2d = conv2d
    return network.ResNet50(weights)


def measured(models, rounds):
    """Return {name: [(page faults, milliseconds of CPU time), ...]}. All take turns, and must agree with the first."""
    rng, found = np.random.default_rng(0), {name: [] for name in models}
    image = rng.standard_normal((224, 224, 3), dtype=np.float32)
    right = next(iter(models.values())).forward(image)
    for _ in range(3 + rounds):
        for name in rng.permutation(list(models)):
            faults, start = getrusage(RUSAGE_SELF).ru_minflt, time.process_time()
            logits = models[name].forward(image)
            spent, faults = time.process_time() - start, getrusage(RUSAGE_SELF).ru_minflt - faults
            found[name].append((faults, 1e3 * spent))
            assert np.abs(logits - right).max() <= 1e-5 * np.abs(right).max(), f"{name} is wrong"
    return {name: pairs[3:] for name, pairs in found.items()}


def table(results):
    changes = tabulate(results["changes"], ["version 3, with", "ms", "saved, ms", "from", "to"], "pipe", floatfmt=".1f")
    headings = ["", "page faults", "ms", "page faults, nothing kept", "ms, nothing kept"]
    allocators = tabulate(results["allocators"], headings, "pipe", floatfmt=".1f", intfmt=",")
    return "\n".join(["", changes, "", allocators, "", f"Measured on {results['processor']}, one thread.", "", ""])


def main(weights, version=None):
    if version:
        return print(json.dumps(measured({"": load_version(version).resnet50.ResNet50(weights)}, rounds=15)[""]))
    turns = measured({name: variant(name, weights) for name in VARIANTS}, rounds=41)
    ms = {name: np.array(pairs)[:, 1] for name, pairs in turns.items()}
    changes = [[name, np.median(t), *np.percentile(ms[VARIANTS[0]] - t, (50, 25, 75))] for name, t in ms.items()]
    results = {"processor": cpuinfo.get_cpu_info()["brand_raw"], "changes": changes, "allocators": []}
    for version in VERSIONS[1:4]:
        command = [sys.executable, __file__, weights, version]
        outputs = [subprocess.check_output(command, env=os.environ | more) for more in ({}, KEEPS_NOTHING)]
        medians = np.median([json.loads(text) for text in outputs], axis=1)
        results["allocators"].append([f"`{version}`", *(f(x) for row in medians for f, x in zip((int, float), row))])
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    ARTICLE.write_text(fill(ARTICLE.read_text("utf-8"), "ablation", table(results)), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    with threadpool_limits(1):  # of BLAS
        main(*(sys.argv[1:] or [str(ROOT / "weights" / "resnet50.safetensors")]))
