"""The generated program outside Python: under the sanitizers, and for a processor of another kind.

A small C program reads weights and activations from files of their exact size, so that any access beyond them is one
beyond an allocation; runs the network twice; and writes the activations back.
"""

import os
import platform
import shlex
import shutil
import subprocess

import numpy as np
import pytest

from bench.reference import reference_logits
from tests.codegen_support import HERE, V5, V6, V7, ZIG, each_version, random_image
from tests.torch_reference import assert_close

DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>

static float *read_floats(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) exit(2);
    *size = ftell(file);
    rewind(file);
    float *floats = aligned_alloc(64, *size);
    if (!floats || fread(floats, 1, *size, file) != *size) exit(2);
    fclose(file);
    return floats;
}

int main(int count, char **arguments) {
    size_t size;
    float *weights = read_floats(arguments[1], &size), *memory = read_floats(arguments[2], &size);
    long steps = atol(arguments[3]);
    (void)count;
    RUN
    FILE *file = fopen(arguments[4], "wb");
    if (!file || fwrite(memory, 1, size, file) != size || fclose(file)) return 2;
    free(weights);
    free(memory);
    return 0;
}
"""
RUN_ALONE = "for (int n = 0; n < 2; n++) forward(weights, memory, 0, steps);"
RUN_THREADS = (
    "struct pool *pool = pool_open(weights, memory, 3); if (!pool) return 2;"
    "for (int n = 0; n < 2; n++) pool_run(pool, 0, steps); pool_close(pool);"
)


def padded(array):
    """Whole cache lines, as `aligned_alloc` wants."""
    return np.concatenate([array, np.full(-array.size % 16, np.nan, dtype=np.float32)])


def check_outside(version, isa, weights_file, size, rng, compile_command, run_command, directory):
    """Generate for an isa of any machine, compile with the driver, run; compare the logits."""
    image = random_image(rng, size)
    isa = version.compiler.ISAS[isa]
    network = version.resnet50.Network(size, 7, isa)
    network.plan.allocate()
    for buffer in network.plan.buffers:
        buffer.array[...] = np.nan
    network.image.array[0] = image
    padded(version.weights.WeightPool(weights_file, network.steps, isa).array).tofile(directory / "weights")
    padded(network.plan.memory).tofile(directory / "memory")
    driver = DRIVER.replace("RUN", RUN_ALONE if version is V5 else RUN_THREADS)
    (directory / "network.c").write_text(version.codegen.generate(network.steps, isa) + driver)
    command = [*compile_command, "-pthread", "-o", directory / "network", directory / "network.c"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    files = [directory / name for name in ("weights", "memory", "result")]
    command = [*run_command, directory / "network", *files[:2], str(len(network.steps)), files[2]]
    environment = os.environ | {"UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this compiler's thread sanitizer wants addresses less random: sysctl vm.mmap_rnd_bits=28")
    assert (done.returncode, done.stderr) == (0, "")
    logits = np.fromfile(files[2], dtype=np.float32)[network.logits.offset :][:7]
    assert_close(logits, reference_logits(weights_file, image), "logits")


SANITIZED = [(V5, isa, size, "address,undefined") for isa, size in zip(HERE, (33, 64, 40))]
SANITIZED += [(V7, HERE[0], 64, "address,undefined"), (V6, HERE[-1], 40, "thread"), (V7, HERE[0], 64, "thread")]


@pytest.mark.parametrize(("version", "isa", "size", "sanitizers"), SANITIZED)
def test_under_sanitizers(version, isa, size, sanitizers, small_weights_file, rng, tmp_path):
    """gcc's runtime where there is gcc; clang's otherwise."""
    command = [shutil.which("gcc") or shutil.which("clang") or "cc", "-O1", "-g0", "-fno-sanitize-recover=all"]
    command += [f"-fsanitize={sanitizers}", *version.compiler.ISAS[isa].flags]
    check_outside(version, isa, small_weights_file, size, rng, command, [], tmp_path)


ARM = platform.machine() in ("aarch64", "arm64")  # no emulation there: HERE has "neon", for all tests
GCC = shutil.which("aarch64-linux-gnu-gcc")  # the wheel can do it, too, but builds a C library first
CROSS = [GCC] if GCC else [*shlex.split(ZIG), "-target", "aarch64-linux-musl"] if ZIG else []
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
NO_CROSS = "no cross compiler: apt-get install gcc-aarch64-linux-gnu, or pip install ziglang"
cross_compiled = pytest.mark.skipif(ARM or not CROSS, reason="native here" if ARM else NO_CROSS)


@cross_compiled
@each_version
def test_compiles_for_neon(version, tmp_path):
    isa = version.compiler.ISAS["neon"]
    source = version.codegen.generate(version.resnet50.Network(32, 7, isa).steps, isa)
    (tmp_path / "text.c").write_text(source)
    command = [*CROSS, "-O2", "-S", "-o", tmp_path / "text.s", tmp_path / "text.c"]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "text.s").read_text().count("fmla") > 1000, "no fused multiply-adds of vectors"


@cross_compiled
@pytest.mark.skipif(not EMULATOR, reason="no emulator: apt-get install qemu-user-static")
@pytest.mark.parametrize(("version", "size"), [(V5, 33), (V7, 64)], ids=["v5", "v7"])
def test_computes_right_with_neon(version, size, small_weights_file, rng, tmp_path):
    """Direct convolutions, and with threads Winograd's, on an emulated ARM."""
    check_outside(version, "neon", small_weights_file, size, rng, [*CROSS, "-static", "-O2"], [EMULATOR], tmp_path)
