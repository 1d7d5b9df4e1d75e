"""The machine's ceilings: GFLOP/s of fused multiply-adds and GB/s read from memory, measured.

Run as `python -m bench.peak`; the benchmark does so in a process of its own.
"""

import ctypes
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

SOURCE = Path(__file__).with_name("peak.c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")
TRIALS = 25  # short ones, and the best counts: a ceiling is what the machine can do undisturbed
ROUNDS = 3_000_000  # of multiply_add: about 8 ms
BUFFER = 64 << 20  # floats: 256 MiB, beyond any cache


def find_compiler():
    """Return the C compiler as a command, a list: $CC, else cc, gcc or clang, else the ziglang wheel; or None."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    try:
        import ziglang  # noqa: F401
    except ImportError:
        return None
    return [sys.executable, "-m", "ziglang", "cc"]


def measure_peak(cores):
    """Return {"method", "cores", "flops", "flops_1", "bandwidth", "bandwidth_1"}: a second, all cores and one.

    Without a C compiler the method is NumPy's matrix product and dot product, which come close to both ceilings.
    """
    kernels, method = native_kernels() or numpy_kernels()
    found = {"method": method, "cores": cores}
    for key, work in kernels.items():
        found[f"{key}_1"] = best_rate(work, 1)
        found[key] = best_rate(work, cores) if cores > 1 else found[f"{key}_1"]
    return found


def native_kernels():
    """Compile peak.c. Return ({"flops": work, "bandwidth": work}, method), or None if there is no compiler."""
    compiler = find_compiler()
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory) / "libpeak.so"
        command = [*compiler, *FLAGS, str(SOURCE), "-o", str(library)]
        if subprocess.run(command, capture_output=True).returncode:
            return None
        peak = ctypes.CDLL(str(library))
    peak.multiply_add.argtypes, peak.multiply_add.restype = [ctypes.c_size_t, ctypes.c_void_p], ctypes.c_double
    peak.read_memory.argtypes, peak.read_memory.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_float
    data = np.ones(BUFFER + 16, dtype=np.float32)
    start = data.ctypes.data + -data.ctypes.data % 64

    def flops(part, parts):
        scratch = np.zeros(16, dtype=np.float32)
        return peak.multiply_add(ROUNDS, scratch.ctypes.data)

    def bandwidth(part, parts):
        count = BUFFER // parts // 64 * 64
        peak.read_memory(start + 4 * part * count, count)
        return 4.0 * count

    bandwidth.data = data  # lives as long as the function that reads it
    return {"flops": flops, "bandwidth": bandwidth}, "C, multiply-adds from registers"


def numpy_kernels():
    threadpool_limits(1, user_api="blas")  # the threads are ours: `best_rate` starts one for each core
    size = 1024
    a, data = np.ones((size, size), dtype=np.float32), np.ones(BUFFER, dtype=np.float32)

    def flops(part, parts):
        for _ in range(4):
            a @ a
        return 4 * 2.0 * size**3

    def bandwidth(part, parts):
        half = BUFFER // parts // 2
        x = data[2 * part * half : 2 * (part + 1) * half]
        np.dot(x[:half], x[half:])
        return 4.0 * len(x)

    return {"flops": flops, "bandwidth": bandwidth}, "NumPy, matrix product"


def best_rate(work, cores, clock=time.perf_counter):
    """Run `work(part, parts)` on `cores` threads at once, TRIALS times. Return the best sum of results a second."""
    best = 0.0
    for _ in range(TRIALS):
        amounts = [0.0] * cores
        start_line = threading.Barrier(cores + 1)

        def run(part, amounts=amounts, start_line=start_line):
            start_line.wait()
            amounts[part] = work(part, cores)

        threads = [threading.Thread(target=run, args=(part,)) for part in range(cores)]
        for thread in threads:
            thread.start()
        start_line.wait()
        start = clock()
        for thread in threads:
            thread.join()
        best = max(best, sum(amounts) / (clock() - start))
    return best


if __name__ == "__main__":
    print(json.dumps(measure_peak(int(sys.argv[1]))))
