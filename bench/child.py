"""A contender's own process: builds it, then answers its parent's requests (see worker.py).

Started as `python -m bench.child FD`, with the thread variables already in its environment.
"""

import inspect
import os
import shlex
import signal
import sys
import time
from multiprocessing.connection import Connection

import numpy as np
from threadpoolctl import threadpool_info

from bench import measure, peers, profile
from bench.allocations import counted_allocations
from common.versions import DIRECT, load_version


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    connection = Connection(int(sys.argv[1]))
    os.dup2(2, 1)  # what a contender prints must not land in the parent's table
    try:
        contender = Contender(**connection.recv())
        connection.send(("done", contender.facts))
        while True:
            method, *arguments = connection.recv()
            connection.send(("done", getattr(contender, method)(connection, *arguments)))
    except EOFError:
        pass  # the parent is gone or has what it wanted
    except Exception as error:
        connection.send(("error", f"{type(error).__name__}: {error}"))


class Contender:
    """One version or peer, ready to run on one picture."""

    def __init__(self, name, weights_dir, image, threads, root, cache, trace):
        self.image = image
        self.facts = {"idle_memory": measure.peak_memory()}  # Python, NumPy and this module
        start = time.perf_counter()
        if name in peers.PEERS:
            self.model = None
            self.forward = peers.PEERS[name](weights_dir, image.shape[0], threads)
            self.facts["threads"] = threads
        else:
            version = load_version(name, root)
            self.trace = profile.traced(version) if trace else None
            options = {"threads": threads, "cache": cache, "winograd": name not in DIRECT}
            self.model = build(version, weights_dir, image.shape[0], options)
            self.forward = self.model.forward
            self.facts["threads"] = threads if accepts(version.resnet50.ResNet50, "threads") else 1
        self.facts["startup_seconds"] = time.perf_counter() - start
        if name not in peers.PEERS and hasattr(version, "compiler"):
            self.facts["compiled_with"] = compiled_with(version.compiler)
        self.facts["blas"] = blas_threads()

    def run(self, connection, rounds, report_progress=False):
        """Time `rounds` pictures; with `report_progress`, name each stage as it ends (a few µs each)."""
        forward = self.forward
        if report_progress and getattr(self.model, "shows_progress", False):  # v5 and v6 probed run another way

            def forward(image):
                return self.model.forward(image, probe=lambda stage, _: connection.send(("progress", stage)))

        return measure.timed_runs(forward, self.image, rounds)

    def run_for(self, connection, duration):
        return measure.runs_for(self.forward, self.image, duration)

    def resources(self, connection, count_allocations):
        """Peak memory first, so that counting does not add to it; then the arrays allocated for one picture."""
        found = {"peak_memory": measure.peak_memory()}
        if count_allocations:
            with counted_allocations() as count:
                self.forward(self.image)
            found |= {"arrays": count.arrays, "array_bytes": count.bytes}
        return found

    def profile(self, connection, rounds):
        return profile.layer_times(self.model, self.trace, self.image, rounds)


def build(version, weights_dir, image_size, options):
    """Construct a version's network with those of the options that its constructor knows."""
    network = version.resnet50.ResNet50
    known = {key: value for key, value in options.items() if accepts(network, key)}
    return network(weights_dir, image_size=image_size, **known)


def compiled_with(compiler):
    """The command that v5 and v6 compile their code with. compiler: their module of that name."""
    found = compiler.Compiler()
    program, *arguments = found.command
    return shlex.join([os.path.basename(program), *arguments, *compiler.FLAGS, *found.isa().flags])


def accepts(network, parameter):
    return parameter in inspect.signature(network).parameters


def blas_threads():
    """{library: threads} of every BLAS in this process. Empty if threadpoolctl knows none (Apple's Accelerate)."""
    np.ones((2, 2)) @ np.ones((2, 2))  # loads what NumPy loads late
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return {os.path.basename(pool["filepath"]): pool["num_threads"] for pool in pools}


if __name__ == "__main__":
    main()
