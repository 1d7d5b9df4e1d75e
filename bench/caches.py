"""Caches as a program sees them: the time of a load against how much is read, in which strides, from how many pages.

Nothing here asks the processor what it has; docs/caches.md compares what comes out with what Linux says.
"""

import ctypes
import mmap
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from bench.inputs import Inputs
from bench.ladder import timed
from bench.machine import caches
from bench.results import entry, extra_info
from common.versions import load_version

SOURCE = Path(__file__).with_suffix(".c")
LINE, PAGE, KIB = 64, 4096, 1024  # bytes
LOADS = 100_000  # of a measurement, at least one round through all places
SIZES = [KIB << n for n in range(2, 18)] + [3 * KIB << n for n in range(2, 16)]  # 4 KiB to 128 MiB
COUNTS = (1, 2, 4, 6, 7, 8, 9, 10, 12, 16, 24, 32, 48, 64)
PAGES = [1 << n for n in range(3, 15)] + [3 << n for n in range(3, 12)]
STRIDES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Memory:
    """Memory of pages of 4 KiB, or of 2 MiB where the system has them, and loads in it."""

    def __init__(self, size: int, huge: bool):
        self.map = mmap.mmap(-1, size + (2 << 20), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        advice = getattr(mmap, "MADV_HUGEPAGE" if huge else "MADV_NOHUGEPAGE", None)
        if advice is not None:
            self.map.madvise(advice)
        whole = np.frombuffer(self.map, dtype=np.uint8)
        start = -whole.ctypes.data % (2 << 20)
        self.bytes = whole[start : start + size]
        self.bytes[::PAGE] = 0  # the system hands the pages out now

    def chain(self, places: Iterable[int], rng: np.random.Generator) -> int:
        """Write into each place, in random order, the address of another: one ring. Return an address in it."""
        order = rng.permutation(np.fromiter(places, dtype=np.int64))
        self.bytes.view(np.uint64)[order // 8] = self.bytes.ctypes.data + np.roll(order, -1).astype(np.uint64)
        return self.bytes.ctypes.data + int(order[0])


def survey(inputs: Inputs, rounds: int = 15) -> list[dict]:
    """Seconds of a load, and of a pass in each stride, as entries of a results file."""
    version = load_version("v5_codegen").compiler
    library = version.Compiler().load(SOURCE.read_text(), version.ISAS["generic128"], cache=False)
    library.chase.argtypes, library.chase.restype = [ctypes.c_void_p, ctypes.c_long], ctypes.c_void_p
    library.skim.argtypes, library.skim.restype = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long], ctypes.c_long
    rng, entries = np.random.default_rng(0), []
    small, large = (Memory(max(SIZES), huge) for huge in (False, True))

    def measure(group: str, points: dict[int, list[int]], memory: Memory) -> None:
        for point, places in points.items():
            start, count = memory.chain(places, rng), max(LOADS, len(places))
            run = partial(library.chase, start, count)
            run()
            seconds = [timed(run) / count for _ in range(max(1, rounds // 5))]
            entries.append(row(point, group, seconds, inputs))

    measure("caches, size", {size: range(0, size, LINE) for size in SIZES}, large)
    for stride in (PAGE, PAGE + LINE):
        measure(f"caches, {stride} bytes apart", {n: range(0, n * stride, stride) for n in COUNTS}, large)
    # A load of every page, each from another set of the caches; then as many lines side by side.
    for group, memory in (("caches, pages", small), ("caches, pages of 2 MiB", large)):
        measure(group, {n: [page * PAGE + page * LINE % PAGE for page in range(n)] for n in PAGES}, memory)
    for stride in STRIDES:
        run = partial(library.skim, large.bytes.ctypes.data, large.bytes.size, stride)
        found = [timed(run) for _ in range(max(1, rounds // 5))]
        entries.append(row(stride, "caches, stride", found, inputs))
    return entries


def row(point: int, group: str, seconds: list[float], inputs: Inputs) -> dict:
    facts = {"point": point, "flops": 0, "gflops": 0.0}
    facts |= {"linux": organisation()} if group == "caches, size" else {}
    return entry(str(point), group, seconds, extra_info("caches", inputs, seconds, **facts))


def organisation() -> dict[str, list[int]]:
    """{"L1d": [bytes, ways, sets], ...} of the first core's caches of which Linux says so much."""
    found = {}
    for name, said in caches().items():
        if {"ways_of_associativity", "number_of_sets"} <= said.keys():
            ways, sets = int(said["ways_of_associativity"]), int(said["number_of_sets"])
            found[name] = [ways * sets * int(said["coherency_line_size"]), ways, sets]
    return found
