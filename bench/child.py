"""A version's own process: builds it, then answers its parent's requests (see worker.py).

Started as `python -m bench.child FD`, with the thread variables already in its environment.
"""

import inspect
import os
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
from threadpoolctl import threadpool_info

from bench import peak, peers, profile
from bench.allocations import counted_allocations
from common.versions import ROOT, load_version

BURSTS = 5  # of multiply-adds, 20 ms each


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    connection = Connection(int(sys.argv[1]))
    try:
        *what, options = connection.recv()
        child = Child(*what, **options)
        connection.send(("done", child.facts))
        while True:
            method, *arguments = connection.recv()
            connection.send(("done", getattr(child, method)(*arguments)))
    except EOFError:
        pass  # the parent is gone or has what it wanted
    except Exception as error:
        connection.send(("error", " ".join(f"{type(error).__name__}: {error}".split())))


class Child:
    """One version or engine and one picture, (size, size, 3) float32. Its methods are what a parent may ask for.

    root: the directory that holds the version's. cache: whether compiled code may come from an earlier start.
    trace: prepare for `profile`. isa: the version's, if it has a choice. in_order: for version 1, see profile.Objects.
    """

    def __init__(
        self, name: str, weights: Path, image, threads: int, root=ROOT, cache=True, trace=False, isa=None, in_order=None
    ):
        self.image = image
        start = time.perf_counter()
        if name in peers.PEERS:
            self.run = peers.PEERS[name](weights, image.shape[0], threads)
            for _ in range(2):  # engines compile, and choose their kernels, during the first pictures
                self.run(image)
        else:
            version = load_version(name, root)
            self.trace = profile.Trace(version.resnet50) if trace and not hasattr(version, "codegen") else None
            if in_order is not None:  # around the trace: what copying takes is not the convolution's
                self.objects = version.resnet50.conv2d = profile.Objects(version.resnet50.conv2d, in_order)
            known = inspect.signature(version.resnet50.ResNet50).parameters
            threads = threads if "threads" in known else 1
            options = {
                key: value for key, value in (("threads", threads), ("cache", cache), ("isa", isa)) if key in known
            }
            self.model = version.resnet50.ResNet50(weights, image_size=image.shape[0], **options)
            self.run = self.model.forward
            self.flags = version.compiler.ISAS[isa].flags if isa else peak.NATIVE
        self.facts = {"startup_seconds": time.perf_counter() - start, "threads": threads, "blas": blas_threads()}

    def nothing(self) -> None:
        """What a round trip costs by itself."""

    def pictures(self, least: int, duration: float) -> tuple[list[float], object]:
        """Run `least` pictures, and more until `duration` seconds are over. Return the seconds of each; the output."""
        seconds, began = [], time.perf_counter()
        while len(seconds) < least or time.perf_counter() - began < duration:
            start = time.perf_counter()
            output = self.run(self.image)
            seconds.append(time.perf_counter() - start)
        return seconds, output

    def answers(self, images: list) -> tuple[list[float], np.ndarray]:
        """Run other pictures. Return the seconds of each; their logits, (pictures, num_classes)."""
        seconds, logits = [], []
        for image in images:
            start = time.perf_counter()
            logits.append(self.run(image))
            seconds.append(time.perf_counter() - start)
        return seconds, np.stack(logits)

    def resources(self, run: bool) -> dict[str, int]:
        """Peak memory, bytes. If a picture may be run for it: its page faults, its arrays and their bytes."""
        found = {"peak_memory": peak_memory()}  # first, so that counting does not add to it
        if run:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            self.run(self.image)
            found["faults"] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            with counted_allocations() as count:
                self.run(self.image)
            found |= {"arrays": count.arrays, "array_bytes": count.bytes}
        return found

    def profile(self) -> tuple[float, dict]:
        """Seconds of a picture and of its parts, after one that warms up; see profile.one_picture."""
        self.run(self.image)
        return profile.one_picture(self.model, self.trace, self.image)

    def parts(self) -> tuple[dict, list[float]]:
        """Of version 1's one picture: {(layer, operator): seconds}; `Objects.adjacent` of its convolutions."""
        return self.trace.take_parts(self.image.shape[0]), self.objects.adjacent

    def peak(self) -> float:
        """FLOP a second of multiply-adds alone at this moment, on as many threads as the version has.

        In the instruction set that was asked for, else in the widest.
        """
        if not hasattr(self, "multiply_adds"):
            self.multiply_adds = peak.multiply_adds(self.flags)
        return median(peak.rates(self.multiply_adds, self.facts["threads"], BURSTS))

    def products(self) -> float:
        """Seconds of a picture's matrix products alone."""
        if not hasattr(self, "alone"):
            self.alone = profile.Products(self.image.shape[0])
            self.alone.seconds()
        return self.alone.seconds()


def blas_threads() -> dict[str, int]:
    """{library: threads} of every BLAS in this process. Empty if threadpoolctl knows none (Apple's Accelerate)."""
    np.ones((2, 2)) @ np.ones((2, 2))  # loads what NumPy loads late
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return {os.path.basename(pool["filepath"]): pool["num_threads"] for pool in pools}


def peak_memory() -> int:
    """The most memory this process ever held, in bytes."""
    if sys.platform == "linux":  # where ru_maxrss carries over the size of the process that started this one
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
