"""Several pictures at once: what an engine gains when it computes them together. `python -m bench batches`

In a process of its own, started by `measured_batches`: the graph with a free number of pictures, as PyTorch exports
it, in ONNX Runtime and OpenVINO. Batches of 1, 2, ... pictures take turns in one session, since the threads of several
would spin against each other. Our versions compute one picture at a time: for them a batch is shared out to processes,
one picture a core, which is the experiment `throughput`.
"""

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from subprocess import run

import numpy as np

from bench import peers
from bench.check import WrongOutput, check_output
from bench.inputs import Inputs
from bench.race import say
from bench.results import entry, extra_info
from common.versions import ROOT

SIZES = (1, 2, 4, 8, 16, 32)
ENGINES = {"onnxruntime": peers.infer_onnxruntime, "openvino": peers.infer_openvino}
ROUNDS = 3


def measured_batches(inputs: Inputs, threads: int, sizes: tuple[int, ...] = SIZES) -> list[dict]:
    """Return an entry for each engine and batch: seconds a picture, of every round."""
    entries = []
    for name in [name for name in ENGINES if name in peers.installed()]:
        say(f"batches: {name}")
        with tempfile.TemporaryDirectory() as directory:
            np.savez(f"{directory}/inputs.npz", image=inputs.image)
            arguments = [name, inputs.weights, directory, threads, *sizes]
            command = [sys.executable, "-m", "bench.batches", *map(str, arguments)]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            done = run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
            if done.returncode:
                reason = (done.stderr.strip().split("\n") or ["no output"])[-1]
                entries.append({"group": "batches", "name": name, "reason": reason})
                continue
            logits = np.load(f"{directory}/logits.npz")
        for size, rounds in json.loads(done.stdout.strip().split("\n")[-1]).items():
            facts = {"threads": threads, "batch": int(size)}
            try:
                facts["max_abs_error"] = max(check_output(name, one, inputs) for one in logits[size])
            except WrongOutput as reason:
                entries.append({"group": "batches", "name": f"{name}, {size}", "reason": str(reason)})
                continue
            extra = extra_info(name, inputs, rounds, **facts)
            entries.append(entry(f"{name}, batch of {size}", "batches", rounds, extra))
    return entries


def main(name: str, weights: str, directory: str, threads: str, *sizes: str) -> None:
    with np.load(f"{directory}/inputs.npz") as stored:
        picture = peers.channels_first(stored["image"])
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    graph = peers.export_onnx(Path(weights), picture.shape[2], directory, dynamic_axes=axes)
    infer = ENGINES[name](graph, int(threads))
    batches = {int(size): np.repeat(picture, int(size), axis=0) for size in sizes}
    logits, rounds = {}, defaultdict(list)
    for turn in range(ROUNDS + 1):
        for size, pictures in batches.items():
            infer(pictures)  # brings caches in order, in the first turn memory and kernels for this size, too
            start = time.perf_counter()
            logits[str(size)] = infer(pictures)
            if turn:
                rounds[size].append((time.perf_counter() - start) / size)
    np.savez(f"{directory}/logits.npz", **logits)
    print(json.dumps(rounds))


if __name__ == "__main__":
    main(*sys.argv[1:])
