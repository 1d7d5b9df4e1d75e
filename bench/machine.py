"""The environment of a result: a time means nothing without the machine and the programs that made it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import cpuinfo
import numpy as np
from pytest_benchmark.utils import get_commit_info
from threadpoolctl import threadpool_info

from bench.peak import FLAGS, find_compiler
from common.versions import ROOT

# The instruction sets that decide a float32 kernel's speed; a CPU lists a hundred others.
SIMD = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512vl", "avx512_bf16", "amx_tile", "asimd", "sve", "neon")


def machine_info(cores, peak):
    """Return what a results file says of its machine. cores: those in use. peak: from peak.measure_peak."""
    cpu = cpuinfo.get_cpu_info()
    flags = set(cpu.get("flags", ()))
    compiler = find_compiler()
    return {
        "cpu": cpu.get("brand_raw", platform.processor() or "unknown"),
        "machine": platform.machine(),
        "cores": cores,
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cores_in_machine": os.cpu_count(),
        "caches": caches(),
        "instruction_sets": [name for name in SIMD if name in flags],
        "peak": peak,
        "compiler": compiler_version(compiler),
        "compiler_flags": " ".join(FLAGS),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "blas": blas(),
        "os": operating_system(),
    }


def commit_info():
    """The commit that was measured, and whether the checkout had changes on top."""
    info = get_commit_info()
    return {key: info[key] for key in ("id", "time", "dirty", "branch") if key in info}


def caches():
    """{"L1d": "32K", ...} of the first core, as Linux lists them; macOS tells the same through sysctl."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = size
    if sys.platform == "darwin":
        for name, key in (("L1d", "hw.l1dcachesize"), ("L2", "hw.l2cachesize"), ("L3", "hw.l3cachesize")):
            if size := first_line(["sysctl", "-n", key]):
                found[name] = f"{int(size) // 1024}K"
    return found


def compiler_version(compiler):
    return first_line([*compiler, "--version"]) if compiler else None


def blas():
    """NumPy's BLAS and its version."""
    for pool in threadpool_info():
        if pool["user_api"] == "blas":
            kernel = f", {pool['architecture']} kernels" if pool.get("architecture") else ""
            return f"{pool['internal_api']} {pool['version']}{kernel}"
    return np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]


def operating_system():
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.system()} {platform.release()}"
    except OSError:
        return platform.platform(terse=True)


def first_line(command):
    """The first line that a command prints, or None if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    except OSError:
        return None
    return done.stdout.strip().split("\n")[0] if done.returncode == 0 else None
