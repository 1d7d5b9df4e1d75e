"""The generated program outside Python: under the sanitizers, and for a processor of another kind."""

import platform

import numpy as np
import pytest

from bench.reference import reference_logits
from tests.codegen_support import HERE, V5, V6, V7, random_image
from tests.outside_support import CROSS, EMULATOR, POOL, SANITIZER, run_outside
from tests.torch_reference import assert_close


def check_outside(version, isa, weights_file, size, rng, compile_command, run_command, directory):
    """Generate for an isa of any machine, compile with the driver, run; compare the logits."""
    image, isa = random_image(rng, size), version.compiler.ISAS[isa]
    network = version.resnet50.Network(size, 7, isa)
    network.plan.allocate()
    for buffer in network.plan.buffers:
        buffer.array[...] = np.nan
    network.image.array[0] = image
    text, call = version.codegen.generate(network.steps, isa), POOL
    if version is V5:
        call = "forward(weights, memory, 0, STEPS);"
    weights = version.weights.WeightPool(weights_file, network.steps, isa).array
    program = text, call, len(network.steps), weights, network.plan.memory
    logits = run_outside(*program, compile_command, run_command, directory)[network.logits.offset :][:7]
    assert_close(logits, reference_logits(weights_file, image), "logits")


SANITIZED = [(V5, isa, size, "address,undefined") for isa, size in zip(HERE, (33, 64, 40))]
SANITIZED += [(V7, HERE[0], 64, "address,undefined"), (V6, HERE[-1], 40, "thread"), (V7, HERE[0], 64, "thread")]


@pytest.mark.parametrize(("version", "isa", "size", "sanitizers"), SANITIZED)
def test_under_sanitizers(version, isa, size, sanitizers, small_weights_file, rng, tmp_path):
    """gcc's runtime where there is gcc; clang's otherwise."""
    command = [*SANITIZER, f"-fsanitize={sanitizers}", *version.compiler.ISAS[isa].flags]
    check_outside(version, isa, small_weights_file, size, rng, command, [], tmp_path)


ARM = platform.machine() in ("aarch64", "arm64")


@pytest.mark.skipif(ARM, reason="this machine needs no emulation: HERE has neon, for all tests")
@pytest.mark.skipif(not CROSS, reason="no cross compiler: apt-get install gcc-aarch64-linux-gnu")
@pytest.mark.skipif(not EMULATOR, reason="no emulator: apt-get install qemu-user-static")
@pytest.mark.parametrize(("version", "size"), [(V5, 33), (V7, 64)], ids=["v5", "v7"])
def test_computes_right_with_neon(version, size, small_weights_file, rng, tmp_path):
    """Direct convolutions, and with threads Winograd's, on an emulated ARM."""
    check_outside(version, "neon", small_weights_file, size, rng, [*CROSS, "-static", "-O2"], [EMULATOR], tmp_path)
