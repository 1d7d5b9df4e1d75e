"""What this machine can do at most: multiply-adds, and bytes read from memory. `python -m bench.peak`"""

import ctypes
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bench.inputs import InputError
from common.machine import available_cores, find_compiler
from common.versions import ROOT

FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")
TRIALS = 12  # short ones, and the best counts: a ceiling is what the machine can do undisturbed
ROUNDS = 8_000_000  # of multiply_add: about 20 ms, beside which starting the threads counts for nothing
BUFFER = 64 << 20  # floats: 256 MiB, beyond any cache
Work = Callable[[int, int], float]  # (part, parts) -> what was done, in operations or bytes


def measured_peak() -> dict[str, float]:
    """Return {"flops_1", "bandwidth_1", "flops", "bandwidth"}: a second, on one core and on all that may be used.

    In a process of its own, since it takes 256 MiB. Raises InputError if there is no working compiler.
    """
    done = subprocess.run([sys.executable, "-m", "bench.peak"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise InputError(done.stderr.strip().split("\n")[-1])
    return json.loads(done.stdout)


def kernels() -> dict[str, Work]:
    """Compile peak.c. Return {"flops": work, "bandwidth": work}."""
    if not (compiler := find_compiler()):
        sys.exit("no C compiler: install one (on Debian: apt install gcc), or `pip install ziglang`")
    with tempfile.TemporaryDirectory() as directory:
        library = f"{directory}/libpeak.so"
        subprocess.run([*compiler, *FLAGS, ROOT / "bench" / "peak.c", "-o", library], check=True)
        peak = ctypes.CDLL(library)
    peak.multiply_add.argtypes, peak.multiply_add.restype = [ctypes.c_size_t, ctypes.c_void_p], ctypes.c_double
    peak.read_memory.argtypes, peak.read_memory.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_float
    data = np.ones(BUFFER + 16, dtype=np.float32)
    aligned = data[-data.ctypes.data % 64 // 4 :]

    def flops(part: int, parts: int) -> float:
        return peak.multiply_add(ROUNDS, np.zeros(16, dtype=np.float32).ctypes.data)

    def bandwidth(part: int, parts: int) -> float:
        count = BUFFER // parts // 64 * 64
        peak.read_memory(aligned.ctypes.data + 4 * part * count, count)
        return 4.0 * count

    return {"flops": flops, "bandwidth": bandwidth}


def best_rate(work: Work, cores: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Run `work` on `cores` threads at once, TRIALS times. Return the best sum of what it did a second."""
    best = 0.0
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(TRIALS):
            start = clock()
            amount = sum(pool.map(work, range(cores), [cores] * cores))
            best = max(best, amount / (clock() - start))
    return best


if __name__ == "__main__":
    counts = {"_1": 1, "": available_cores()}
    rates = {what + suffix: best_rate(work, n) for what, work in kernels().items() for suffix, n in counts.items()}
    print(json.dumps(rates))
