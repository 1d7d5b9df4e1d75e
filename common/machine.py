"""What this machine offers: a C compiler, and cores."""

import importlib.util
import os
import shlex
import shutil
import sys


def find_compiler() -> list[str] | None:
    """Return the command of $CC, cc, gcc, clang or the ziglang wheel, or None. The versions' compiler.py agrees."""
    if chosen := shlex.split(os.environ.get("CC", "")):
        return chosen
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    return [sys.executable, "-m", "ziglang", "cc"] if importlib.util.find_spec("ziglang") else None


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
