"""The environment of a result: a time means nothing without the machine and the programs that made it."""

import os
import platform
import re
import subprocess
from pathlib import Path

import cpuinfo
import numpy as np
from threadpoolctl import threadpool_info

from common.machine import available_cores, find_compiler

SAID = {"level", "type", "size", "ways_of_associativity", "number_of_sets", "coherency_line_size"}  # of a cache
SIMD = {"avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "sve"}
APPLE = {"internal_api": "Accelerate", "version": platform.mac_ver()[0]}  # the BLAS that threadpoolctl does not know


def machine_info() -> dict:
    """What a results file says of its machine."""
    cpu, compiler = cpuinfo.get_cpu_info(), find_compiler()
    pool = next((pool for pool in threadpool_info() if pool["user_api"] == "blas"), APPLE)
    version = compiler and subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout
    return {
        "processor": cpu.get("brand_raw", platform.processor() or "unknown"),
        "family": cpu.get("family"),  # with the model it tells Zen 3 from Zen 4, where a cloud's brand does not
        "model": cpu.get("model"),
        "machine": platform.machine(),
        "cores": available_cores(),
        "cores_in_machine": os.cpu_count(),
        "caches": {name: said["size"] for name, said in caches().items() if "size" in said},
        "instruction_sets": sorted(SIMD.intersection(cpu.get("flags", ()))),
        "compiler": version and version.split("\n")[0],
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "blas": f"{pool['internal_api']} {pool['version']}, {pool.get('architecture') or 'unknown'} kernels",
        "os": f"{platform.system()} {platform.release().partition('-')[0]}",
    }


def slug(info: dict) -> str:
    """The processor as a file name: amd-epyc-family-25-model-1."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"\((r|tm)\)|\b(cpu|processor)\b", " ", info["processor"].lower()))
    for key in ("family", "model"):
        words += [key, str(info[key])] if info.get(key) is not None else []
    return "-".join(words)


def generation(info: dict) -> str:
    """What tells processors of one name apart: family 25, model 1. Empty where the system does not say."""
    return ", ".join(f"{key} {info[key]}" for key in ("family", "model") if info.get(key) is not None)


def caches() -> dict[str, dict[str, str]]:
    """{"L1d": {"size": "32K", ...}, ...} of the first core: what Linux says of each cache; elsewhere empty."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        said = {path.name: path.read_text().strip() for path in index.iterdir() if path.name in SAID}
        if said["type"] != "Instruction":
            found[f"L{said['level']}{'d' if said['type'] == 'Data' else ''}"] = said
    return found
