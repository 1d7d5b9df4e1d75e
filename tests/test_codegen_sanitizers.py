"""The generated program outside Python: under the sanitizers, and for a processor of another kind.

A small C program reads weights and activations from files of their exact size, so that any access beyond them is one
beyond an allocation; runs the network twice; and writes the activations back.
"""

import os
import shlex
import shutil
import subprocess

import numpy as np
import pytest

from bench.reference import reference_logits
from tests.codegen_support import HERE, V5, V6, ZIG, random_image
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
    float *weights = read_floats(arguments[1], &size), *arena = read_floats(arguments[2], &size);
    long steps = atol(arguments[3]);
    (void)count;
    RUN
    FILE *file = fopen(arguments[4], "wb");
    if (!file || fwrite(arena, 1, size, file) != size || fclose(file)) return 2;
    free(weights);
    free(arena);
    return 0;
}
"""
RUNS = {
    "v5_codegen": "for (int n = 0; n < 2; n++) forward(weights, arena, 0, steps);",
    "v6_threads": "struct pool *pool = pool_open(weights, arena, 3); if (!pool) return 2;"
    "for (int n = 0; n < 2; n++) pool_run(pool, 0, steps); pool_close(pool);",
}


def padded(block):
    """Whole cache lines, as `aligned_alloc` wants."""
    return np.concatenate([block, np.full(-block.size % 16, np.nan, dtype=np.float32)])


def run_outside(version, isa, weights_dir, size, image, compile_command, run_command, directory):
    """Generate for an isa of any machine, compile with the driver, run; return the logits."""
    isa = version.compiler.ISAS[isa]
    network = version.resnet50.Network(size, 7, isa)
    network.plan.allocate()
    for buffer in network.plan.buffers:
        buffer.array[...] = np.nan
    network.image.array[0] = image
    padded(version.weights.WeightPool(weights_dir, network.steps, isa).block).tofile(directory / "weights")
    padded(network.plan.block).tofile(directory / "arena")
    source = version.codegen.generate(network.steps, isa) + DRIVER.replace("RUN", RUNS[version.name])
    (directory / "network.c").write_text(source)
    command = [*compile_command, "-pthread", "-o", directory / "network", directory / "network.c"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    files = [directory / name for name in ("weights", "arena", "result")]
    command = [*run_command, directory / "network", *files[:2], str(len(network.steps)), files[2]]
    environment = os.environ | {"UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    arena = np.fromfile(files[2], dtype=np.float32)
    return arena[network.logits.offset :][:7]


SANITIZED = [(V5, isa, size, "address,undefined") for isa, size in zip(HERE, (33, 64, 40))]
SANITIZED += [(V6, HERE[0], 64, "address,undefined"), (V6, HERE[-1], 40, "thread")]


@pytest.mark.parametrize(("version", "isa", "size", "sanitizers"), SANITIZED)
def test_under_sanitizers(version, isa, size, sanitizers, small_weights_dir, rng, tmp_path):
    """gcc's runtime where there is gcc; clang's otherwise."""
    image = random_image(rng, size)
    command = [shutil.which("gcc") or shutil.which("clang") or "cc", "-O1", "-g0", "-fno-sanitize-recover=all"]
    command += [f"-fsanitize={sanitizers}", *version.compiler.ISAS[isa].flags]
    logits = run_outside(version, isa, small_weights_dir, size, image, command, [], tmp_path)
    assert_close(logits, reference_logits(small_weights_dir, image), "logits")


EMULATORS = [path for path in (shutil.which("qemu-aarch64-static"), shutil.which("qemu-aarch64")) if path]


CROSS = [*shlex.split(ZIG or "clang"), "-target", "aarch64-linux-musl", "-static", "-O2"]


@pytest.mark.parametrize("version", [V5, V6], ids=["v5", "v6"])
def test_compiles_for_neon(version, tmp_path):
    isa = version.compiler.ISAS["neon"]
    source = version.codegen.generate(version.resnet50.Network(32, 7, isa).steps, isa)
    (tmp_path / "text.c").write_text(source)
    subprocess.run([*CROSS, "-S", "-o", tmp_path / "text.s", tmp_path / "text.c"], check=True, capture_output=True)
    assert (tmp_path / "text.s").read_text().count("fmla") > 1000, "no fused multiply-adds of vectors"


@pytest.mark.exhaustive
@pytest.mark.parametrize("version", [V5, V6], ids=["v5", "v6"])
@pytest.mark.parametrize("size", [32, 97])
def test_computes_right_with_neon(version, size, small_weights_dir, rng, tmp_path):
    """Linked by the wheel's clang, which first builds a C library for ARM; run where there is an emulator."""
    image = random_image(rng, size)
    for emulator in EMULATORS[:1]:
        logits = run_outside(version, "neon", small_weights_dir, size, image, CROSS, [emulator], tmp_path)
        assert_close(logits, reference_logits(small_weights_dir, image), "logits")
