"""What tests of versions 5, 6, 7 and 9 share: compilers, instruction sets, single operators, their float64 answers."""

import ctypes
import importlib.util
import os
import shutil
import sys

import numpy as np
import pytest
import torch

from bench.reference import reference_activations
from common.versions import load_version
from tests.torch_reference import assert_close

VERSIONS = V5, V6, V7 = tuple(map(load_version, ("v5_codegen", "v6_threads", "v7_winograd")))
V9 = load_version("v9_ozaki")
each_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
ZIG = f"{sys.executable} -m ziglang cc" if importlib.util.find_spec("ziglang") else None
FOUND = [command for command in ("gcc", "clang", ZIG) if command and shutil.which(command.split()[0])]
COMPILERS = [os.environ["CC"]] if os.environ.get("CC") else FOUND  # CC="gcc -mno-avx2" holds all tests to 128 bits
HERE = list(V5.compiler.Compiler().isas)  # the names of the instruction sets of this machine, the best first


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


def check_network(model, weights_file, rng):
    """Compare logits and every probed activation with the float64 reference, from poisoned buffers."""
    image = random_image(rng, model.image_size)
    expected = reference_activations(weights_file, image)
    poison(model)
    assert_close(model.forward(image), expected["logits"], "logits")
    poison(model)
    found = {}
    found["logits"] = model.forward(image, probe=found.__setitem__)
    assert list(found) == list(expected)
    model.forward(-image)  # what was given out before stays as it was
    for name, array in expected.items():
        assert_close(found[name], array, name)
        assert found[name].dtype == np.float32


def grouped(array, lanes):
    """(height, width, channels) -> (channels / lanes, height, width, lanes)."""
    return array.reshape(*array.shape[:2], -1, lanes).transpose(2, 0, 1, 3)


class Operators:
    """Some steps with buffers and weights of their own, compiled as one library."""

    def __init__(self, version, isa, threads=1, **caches):
        """isa: a name, or one that this machine need not have."""
        self.version, self.isa, self.threads = version, version.compiler.ISAS.get(isa, isa)._replace(**caches), threads
        self.plan = version.buffers.BufferPlan(threads) if version is V9 else version.buffers.BufferPlan()
        self.steps, self.packed, self.checks = [], [], []

    def take(self, height, width, channels, border=0, lanes=None):
        return self.plan.take("buffer", (height, width, channels), lanes or self.isa.width, border)

    def note(self, operator, x, out, weight=None, bias=None, **arguments):
        offset = sum(packed.size for packed in self.packed)
        step = self.version.codegen.Step(f"step{len(self.steps)}", operator, x, out, arguments, offset)
        self.steps.append(step)
        if step.has_weights:
            self.packed.append(np.full(step.weight_size, np.nan, dtype=np.float32))
            self.pack(step, weight, bias, self.packed[-1])

    def pack(self, step, weight, bias, packed):
        self.version.weights.pack(weight, bias, step.x.lanes, step.weight_layout(self.isa), packed)
        assert np.isfinite(packed).all()

    def expect(self, x, data, out=None, expected=None, residual=np.nan, tolerance=1e-5):
        """Have `run` put data (height, width, channels) into x, and compare what it then finds in `out`, if any."""
        self.checks.append((x, data, out, expected, residual, tolerance))

    def run(self):
        """Compile, fill the buffers, run; compare every result, and what belongs to no step with zeros."""
        isa, plan, before = self.isa, self.plan, getattr(self.plan, "maxima", 0)  # numbers that lie before a buffer
        library = self.version.compiler.Compiler().load(
            self.version.codegen.generate(self.steps, isa), isa, cache=False
        )
        weights = self.version.buffers.aligned(sum(packed.size for packed in self.packed))
        weights[...] = np.concatenate(self.packed) if self.packed else 0
        plan.allocate()
        for buffer in plan.buffers:
            buffer.array[...] = np.nan
            plan.memory[buffer.offset - before : buffer.offset] = 1e30
        for x, data, out, _, residual, _ in self.checks:
            x.array[...] = grouped(data, x.lanes)
            if out:
                out.array[...] = grouped(np.broadcast_to(residual, out.shape), out.lanes)
        if self.version is V5:
            library.forward.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
            library.forward(weights.ctypes.data, plan.memory.ctypes.data, 0, len(self.steps))
        else:
            self.version.threads.Pool(library, weights, plan.memory, self.threads).run(0, len(self.steps))
        for x, data, out, expected, _, tolerance in self.checks:
            if out:
                assert_close(out.channels_last(), expected, f"{x} to {out}", tolerance)
            np.testing.assert_array_equal(x.channels_last(), data, err_msg="the input was changed")
        outside = np.ones(plan.memory.size, bool)
        for buffer in plan.buffers:  # what it holds but its pixels is zero
            outside[buffer.offset - before : buffer.offset + buffer.size] = False
            everything = plan.memory[buffer.offset : buffer.offset + buffer.size]
            assert np.count_nonzero(everything) == np.count_nonzero(buffer.array), f"the border of {buffer} was changed"
        assert not plan.memory[outside].any(), "memory between the buffers was changed"


def convolution(data, weight, bias, residual, stride, padding, add, relu):
    """In float64, of pictures (height, width, channels) and weights (out, kernel, kernel, in)."""
    arrays = data.transpose(2, 0, 1)[None], weight.transpose(0, 3, 1, 2), bias
    tensors = [torch.from_numpy(array.astype(np.float64)) for array in arrays]
    result = torch.nn.functional.conv2d(*tensors, stride=stride, padding=padding)[0].numpy().transpose(1, 2, 0)
    result = result + residual * add
    return np.maximum(result, 0) if relu else result


def note_convolution(operators, rng, case, lanes=None):
    """Note a convolution of random data, by Winograd's algorithm if the case has the `size` of its tiles."""
    isa, version, size = operators.isa, operators.version, case.get("size")
    kernel, stride = case["kernel"], case["stride"]
    lanes, padding = lanes or isa.width, min(case["padding"], kernel // 2)
    in_channels, out_channels = case["groups"] * lanes, case["panels"] * version.ops.VECTORS * isa.width
    in_size = [max(case[name], kernel - 2 * padding) for name in ("height", "width")]
    out_size = [(extent + 2 * padding - kernel) // stride + 1 for extent in in_size]
    x = operators.take(*in_size, in_channels, border=padding, lanes=lanes)
    out = operators.take(*out_size, out_channels, border=case["border"])
    data, residual = (rng.standard_normal(buffer.shape).astype(np.float32) for buffer in (x, out))
    weight = rng.standard_normal((out_channels, kernel, kernel, in_channels)).astype(np.float32)
    bias = rng.standard_normal(out_channels).astype(np.float32)
    if size:
        tiling = {"size": size, "stride": stride}
        tiles = operators.take(*version.winograd.tiled_shape(isa, out, **tiling), in_channels)
        transformed = version.winograd.transform_weights(weight.astype(np.float64), **tiling)
        operators.note(version.winograd.winograd_input, x, tiles, **tiling)
        operators.note(version.winograd.winograd_conv2d, tiles, out, transformed, bias, **tiling)
    else:
        options = {"kernel": kernel, "stride": stride, "padding": padding, "add": case["add"], "relu": case["relu"]}
        operators.note(version.ops.conv2d, x, out, weight, bias, **options)
    expected = convolution(data, weight, bias, residual, stride, padding, case["add"], case["relu"])
    operators.expect(x, data, out, expected, residual if case["add"] else np.nan, 3e-5 if size else 1e-5)
