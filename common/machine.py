"""What this machine offers: a C compiler, and cores."""

import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path


def find_compiler() -> list[str] | None:
    """Return the command of $CC, cc, gcc, clang or the ziglang wheel, or None. The versions' compiler.py agrees."""
    if chosen := shlex.split(os.environ.get("CC", "")):
        return chosen
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    return [sys.executable, "-m", "ziglang", "cc"] if importlib.util.find_spec("ziglang") else None


def available_cores(limit: str | Path = "/sys/fs/cgroup/cpu.max") -> int:
    """Return how many cores this process may use, as version 6 counts them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path(limit).read_text().split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such limit; "max" means none
        return cores
