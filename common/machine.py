"""What this machine offers: a C compiler, and cores."""

import importlib.util
import os
import shlex
import shutil
import sys

from common.versions import load_version

available_cores = load_version("v6_threads").threads.available_cores  # by affinity, and by a container's limit


def find_compiler() -> list[str] | None:
    """Return the command of $CC, cc, gcc, clang or the ziglang wheel, or None. The versions' compiler.py agrees."""
    if chosen := shlex.split(os.environ.get("CC", "")):
        return chosen
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    return [sys.executable, "-m", "ziglang", "cc"] if importlib.util.find_spec("ziglang") else None
