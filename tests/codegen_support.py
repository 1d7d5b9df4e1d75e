"""What the tests of versions 5 and 6 share: compilers, instruction sets, single operators and their float64 answers."""

import importlib.util
import shutil
import sys

import numpy as np
import pytest

from bench.reference import reference_activations
from common.versions import load_version
from tests.torch_reference import assert_close

V5, V6 = load_version("v5_codegen"), load_version("v6_threads")
ZIG = f"{sys.executable} -m ziglang cc" if importlib.util.find_spec("ziglang") else None
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)] + ([ZIG] if ZIG else [])
HERE = [isa.name for isa in V5.compiler.Compiler().isas()]  # the best first


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """One cache for all tests of a module that imports this: what differs in threads only is compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET50_CACHE", str(tmp_path_factory.mktemp("cache") / "libraries"))
        yield


def random_image(rng, size):
    return rng.standard_normal((size, size, 3)).astype(np.float32)


def poison(model):
    """Fill every activation with NaN, but not the borders, whose zeros belong to the layout."""
    for buffer in model.network.plan.buffers:
        buffer.array[...] = np.nan


def check_network(model, weights_dir, image):
    """Compare logits and every probed activation with the float64 reference, from poisoned buffers."""
    expected = reference_activations(weights_dir, image)
    poison(model)
    assert_close(model.forward(image), expected["logits"], "logits")
    poison(model)
    found = {}
    found["logits"] = model.forward(image, probe=found.__setitem__)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert_close(found[name], array, name)
        assert found[name].dtype == np.float32


class Operators:
    """Some steps with buffers and weights of their own, compiled as one library by version 5 or 6."""

    def __init__(self, version, isa, threads=1):
        self.version, self.isa, self.threads = version, version.compiler.ISAS[isa], threads
        self.plan, self.steps, self.packed, self.size = version.buffers.BufferPlan(), [], [], 0

    def take(self, height, width, channels, border=0, block=None):
        return self.plan.take("buffer", (height, width, channels), block or self.isa.width, border)

    def note(self, operator, x, out, weight=None, bias=None, **arguments):
        step = self.version.codegen.Step(f"step{len(self.steps)}", operator, x, out, arguments, self.size)
        self.steps.append(step)
        if step.has_weights:
            if "size" in arguments:
                weight = self.version.winograd.transform_weights(weight.astype(np.float64), arguments["size"])
            packed = np.full(step.weight_size, np.nan, dtype=np.float32)
            self.version.weights.pack(weight, bias, x.block, step.weight_blocks(self.isa), packed)
            assert np.isfinite(packed).all()
            self.packed.append(packed)
            self.size += step.weight_size

    def compile(self):
        """Compile the steps; their buffers then have arrays, of zeros."""
        self.library = self.version.compiler.Compiler().load(
            self.version.codegen.generate(self.steps, self.isa), self.isa, cache=False
        )
        self.weights = self.version.buffers.aligned(self.size)
        self.weights[...] = np.concatenate(self.packed) if self.packed else 0
        self.plan.allocate()

    def check(self, noted):
        """Compile and run; noted: for each step or pair of steps what fills its buffers, and what checks them."""
        self.compile()
        for fill, _ in noted:
            fill()
        self.run()
        for _, check in noted:
            check(self.plan.block)

    def run(self):
        memory = (self.library, self.weights, self.plan.block)
        program = V5.resnet50.Program(*memory) if self.version is V5 else V6.threads.Pool(*memory, self.threads)
        program.run(0, len(self.steps))
