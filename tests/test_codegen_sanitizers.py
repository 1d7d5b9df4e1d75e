"""The generated program outside Python: under the sanitizers, and for a processor of another kind.

A small C program reads weights and activations from files of their exact size, so that any access beyond them is one
beyond an allocation; runs the network twice; and writes the activations back.
"""

import platform
import shlex
import shutil
import subprocess

import numpy as np
import pytest

from bench.reference import reference_logits
from tests.codegen_support import HERE, V5, V6, V7, ZIG, random_image
from tests.torch_reference import assert_close

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


def check_outside(version, isa, weights_file, size, rng, compile_command, run_command, directory):
    """Generate for an isa of any machine, compile with the driver, run; compare the logits."""
    image, isa = random_image(rng, size), version.compiler.ISAS[isa]
    network = version.resnet50.Network(size, 7, isa)
    network.plan.allocate()
    for buffer in network.plan.buffers:
        buffer.array[...] = np.nan
    network.image.array[0] = image
    driver = DRIVER.replace("RUN", "forward(weights, memory, 0, STEPS);" if version is V5 else POOL)
    driver = driver.replace("STEPS", str(len(network.steps)))
    weights = version.weights.WeightPool(weights_file, network.steps, isa).array
    for name, array in ("weights", weights), ("memory", network.plan.memory):
        whole = np.append(array, np.full(-array.size % 16, np.nan, dtype=np.float32))  # cache lines, for aligned_alloc
        whole.tofile(directory / name)
        driver = driver.replace(name.upper(), str(whole.nbytes))
    (directory / "network.c").write_text(version.codegen.generate(network.steps, isa) + driver)
    subprocess.run([*compile_command, "-pthread", "-o", "network", "network.c"], cwd=directory, check=True)
    done = subprocess.run([*run_command, "./network"], cwd=directory, capture_output=True, text=True)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this compiler's thread sanitizer wants addresses less random: sysctl vm.mmap_rnd_bits=28")
    assert (done.returncode, done.stderr) == (0, "")
    logits = np.fromfile(directory / "result", dtype=np.float32)[network.logits.offset :][:7]
    assert_close(logits, reference_logits(weights_file, image), "logits")


SANITIZED = [(V5, isa, size, "address,undefined") for isa, size in zip(HERE, (33, 64, 40))]
SANITIZED += [(V7, HERE[0], 64, "address,undefined"), (V6, HERE[-1], 40, "thread"), (V7, HERE[0], 64, "thread")]


@pytest.mark.parametrize(("version", "isa", "size", "sanitizers"), SANITIZED)
def test_under_sanitizers(version, isa, size, sanitizers, small_weights_file, rng, tmp_path):
    """gcc's runtime where there is gcc; clang's otherwise."""
    command = [shutil.which("gcc") or shutil.which("clang") or "cc", "-O1", "-g0", "-fno-sanitize-recover=all"]
    command += [f"-fsanitize={sanitizers}", *version.compiler.ISAS[isa].flags]
    check_outside(version, isa, small_weights_file, size, rng, command, [], tmp_path)


ARM = platform.machine() in ("aarch64", "arm64")
GCC = shutil.which("aarch64-linux-gnu-gcc")  # the wheel can do it, too, but builds a C library first
CROSS = [GCC] if GCC else [*shlex.split(ZIG), "-target", "aarch64-linux-musl"] if ZIG else []
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


@pytest.mark.skipif(ARM, reason="this machine needs no emulation: HERE has neon, for all tests")
@pytest.mark.skipif(not CROSS, reason="no cross compiler: apt-get install gcc-aarch64-linux-gnu")
@pytest.mark.skipif(not EMULATOR, reason="no emulator: apt-get install qemu-user-static")
@pytest.mark.parametrize(("version", "size"), [(V5, 33), (V7, 64)], ids=["v5", "v7"])
def test_computes_right_with_neon(version, size, small_weights_file, rng, tmp_path):
    """Direct convolutions, and with threads Winograd's, on an emulated ARM."""
    check_outside(version, "neon", small_weights_file, size, rng, [*CROSS, "-static", "-O2"], [EMULATOR], tmp_path)
