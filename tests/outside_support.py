"""The generated program outside Python: what compiles it, a C program around it, and an ARM to run it on.

The C program reads weights and activations from files of their exact size, so that any access beyond them is one
beyond an allocation; runs the network twice; and writes the activations back.
"""

import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.codegen_support import ZIG

SANITIZER = [shutil.which("gcc") or shutil.which("clang") or "cc", "-O1", "-g0", "-fno-sanitize-recover=all"]
GCC = shutil.which("aarch64-linux-gnu-gcc")  # the wheel can do it, too, but builds a C library first
CROSS = [GCC] if GCC else [*shlex.split(ZIG), "-target", "aarch64-linux-musl"] if ZIG else []
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")

DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>

static float *load(const char *path, size_t size) {
    float *floats = aligned_alloc(64, size);
    FILE *file = fopen(path, "rb");
    if (!file || !floats || fread(floats, 1, size, file) != size) exit(2);
    fclose(file);
    return floats;
}

int main(void) {
    float *weights = load("weights", WEIGHTS), *memory = load("memory", MEMORY);
    for (int n = 0; n < 2; n++) { RUN }
    FILE *file = fopen("result", "wb");
    if (!file || fwrite(memory, 1, MEMORY, file) != MEMORY || fclose(file)) return 2;
    free(weights);
    free(memory);
    return 0;
}
"""
POOL = "struct pool *pool = pool_open(weights, memory, 3); pool_run(pool, 0, STEPS); pool_close(pool);"


def run_outside(
    text: str, call: str, steps: int, weights: NDArray, memory: NDArray, command: list, start: list, directory: Path
) -> NDArray:
    """Compile `text` with the driver and run it; return the memory that it leaves.

    call: C that runs all STEPS. command: a compiler with its flags. start: what the program is started with.
    """
    driver = DRIVER.replace("RUN", call).replace("STEPS", str(steps))
    for name, array in ("weights", weights), ("memory", memory):
        rest = -array.nbytes % 64 // array.itemsize  # aligned_alloc wants whole cache lines
        whole = np.append(array, np.full(rest, np.nan if array.dtype.kind == "f" else 85, array.dtype))
        whole.tofile(directory / name)
        driver = driver.replace(name.upper(), str(whole.nbytes))
    (directory / "network.c").write_text(text + driver)
    subprocess.run([*command, "-pthread", "-o", "network", "network.c", "-lm"], cwd=directory, check=True)
    done = subprocess.run([*start, "./network"], cwd=directory, capture_output=True, text=True)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this compiler's thread sanitizer wants addresses less random: sysctl vm.mmap_rnd_bits=28")
    assert (done.returncode, done.stderr) == (0, "")
    return np.fromfile(directory / "result", memory.dtype)
