"""What this machine can do at most, a second: the constants of article 16's model. `python -m bench.peak`"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from bench.inputs import InputError
from common.machine import available_cores, find_compiler
from common.versions import ROOT

FLAGS = ("-O3", "-ffp-contract=fast", "-shared", "-fPIC")
NATIVE = ("-march=native",)
TRIALS = 12  # short ones, and the best counts: a ceiling is what the machine can do undisturbed
ROUNDS = 8_000_000  # of multiply_add: about 20 ms, beside which starting the threads counts for nothing
BUFFER = 64 << 20  # floats: 256 MiB, beyond any cache
SQUARE = 1024  # rows and columns of BLAS's matrices: large enough for its best
WINDOW = 576  # numbers under a kernel of layer1: 3x3 of 64 channels
OBJECTS = 2**19 // WINDOW * WINDOW  # Python floats, 32 bytes with their places in lists: 17 MB
TENSORS = 64  # small ones in a file
LARGE = {f"large {number}": 9 << 20 for number in range(7)}  # bytes; together beyond any cache, as the network's are
Work = Callable[[int, int], float]  # (part, parts) -> what was done, in operations or bytes


def measured_peak() -> dict[str, float]:
    """Return {"flops_1", "bandwidth_1", "flops", "bandwidth"}, on one core and on all that may be used, and `software`.

    All are rates, a second. In a process of its own, since it takes 256 MiB, and since NumPy's BLAS is to have one
    thread. Raises InputError if there is no working compiler.
    """
    environment = os.environ | {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "BLIS")}
    command = [sys.executable, "-m", "bench.peak"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        raise InputError(done.stderr.strip().split("\n")[-1])
    return json.loads(done.stdout)


def compiled(flags: Sequence[str]) -> ctypes.CDLL:
    """Compile peak.c. Exits if there is no compiler."""
    if not (compiler := find_compiler()):
        sys.exit("no C compiler: install one (on Debian: apt install gcc), or `pip install ziglang`")
    with tempfile.TemporaryDirectory() as directory:
        library = f"{directory}/libpeak.so"
        subprocess.run([*compiler, *FLAGS, *flags, ROOT / "bench" / "peak.c", "-o", library], check=True)
        peak = ctypes.CDLL(library)
    peak.multiply_add.argtypes, peak.multiply_add.restype = [ctypes.c_size_t, ctypes.c_void_p], ctypes.c_double
    peak.read_memory.argtypes, peak.read_memory.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_float
    return peak


def multiply_adds(flags: Sequence[str] = NATIVE) -> Work:
    """Return the work of some 20 ms of multiply-adds, in FLOP. flags: of the instruction set."""
    peak = compiled(flags)
    return lambda part, parts: peak.multiply_add(ROUNDS, np.zeros(16, dtype=np.float32).ctypes.data)


def reading() -> Work:
    """Return the work of reading memory, in bytes."""
    peak, data = compiled(NATIVE), np.ones(BUFFER + 16, dtype=np.float32)
    aligned = data[-data.ctypes.data % 64 // 4 :]

    def bandwidth(part: int, parts: int) -> float:
        count = BUFFER // parts // 64 * 64
        peak.read_memory(aligned.ctypes.data + 4 * part * count, count)
        return 4.0 * count

    return bandwidth


def rates(work: Work, cores: int, trials: int, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Run `work` on `cores` threads at once, of which this is one. Return the sum of what it did a second, by trial."""
    found = []
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(trials):
            start = clock()
            others = [pool.submit(work, part, cores) for part in range(1, cores)]
            amount = work(0, cores) + sum(other.result() for other in others)
            found.append(amount / (clock() - start))
    return found


def software(directory: str) -> dict[str, Work]:
    """Return the work whose rates are Python's and its libraries', on one core. directory: for a file of weights.

    blas: FLOP of a square product. calls: of a NumPy function on one number. tensors: small ones read from a file.
    copied: bytes of large ones. turns: multiply-adds of version 1's innermost loop, whose numbers lie in memory in the
    order of their use.
    """
    square = np.ones((SQUARE, SQUARE), dtype=np.float32)
    small, product = np.zeros(1, dtype=np.float32), np.empty_like(square)
    large = {name: np.zeros(size // 4, dtype=np.float32) for name, size in LARGE.items()}
    save_file({str(number): small for number in range(TENSORS)} | large, f"{directory}/tensors")
    file = safe_open(f"{directory}/tensors", framework="numpy")
    floats = [float(number) for number in range(OBJECTS)]
    window, kernels = floats[:WINDOW], [floats[start : start + WINDOW] for start in range(0, OBJECTS, WINDOW)]

    def blas(part: int, parts: int) -> float:
        np.matmul(square, square, out=product)
        return 2.0 * SQUARE**3

    def calls(part: int, parts: int) -> float:
        for _ in range(1000):
            np.add(small, small, out=small)
        return 1000

    def tensors(part: int, parts: int) -> float:
        for number in range(TENSORS):
            file.get_tensor(str(number))
        return TENSORS

    def copied(part: int, parts: int) -> float:
        return float(sum(file.get_tensor(name).nbytes for name in LARGE))

    return {
        "blas": blas,
        "calls": calls,
        "tensors": tensors,
        "copied": copied,
        "turns": lambda part, parts: inner_loop(window, kernels),
    }


def inner_loop(window: list[float], kernels: list[list[float]]) -> float:
    """Version 1's loops over output channels and over the numbers of a window. Returns the turns done."""
    for kernel in kernels:
        total = 0.0
        for value, factor in zip(window, kernel):
            total += value * factor
    return float(len(kernels) * len(window))


if __name__ == "__main__":
    counts = {"_1": 1, "": available_cores()}
    best = {"flops" + suffix: max(rates(multiply_adds(), cores, TRIALS)) for suffix, cores in counts.items()}
    best |= {"bandwidth" + suffix: max(rates(reading(), cores, TRIALS)) for suffix, cores in counts.items()}
    with tempfile.TemporaryDirectory() as directory:
        best |= {what: max(rates(work, 1, TRIALS)) for what, work in software(directory).items()}
    print(json.dumps(best))
