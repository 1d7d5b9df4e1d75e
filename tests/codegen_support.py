"""What the tests of versions 5 to 7 share: compilers, instruction sets, single operators and their float64 answers."""

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
        self.version, self.isa, self.threads = version, version.compiler.ISAS[isa]._replace(**caches), threads
        self.plan, self.steps, self.packed, self.checks = version.buffers.BufferPlan(), [], [], []

    def take(self, height, width, channels, border=0, lanes=None):
        return self.plan.take("buffer", (height, width, channels), lanes or self.isa.width, border)

    def note(self, operator, x, out, weight=None, bias=None, **arguments):
        offset = sum(packed.size for packed in self.packed)
        step = self.version.codegen.Step(f"step{len(self.steps)}", operator, x, out, arguments, offset)
        self.steps.append(step)
        if step.has_weights:
            self.packed.append(np.full(step.weight_size, np.nan, dtype=np.float32))
            self.version.weights.pack(weight, bias, x.lanes, step.weight_layout(self.isa), self.packed[-1])
            assert np.isfinite(self.packed[-1]).all()

    def expect(self, x, data, out, expected, residual=np.nan, tolerance=1e-5):
        """Have `run` put data (height, width, channels) into x, and compare what it then finds in `out`."""
        self.checks.append((x, data, out, expected, residual, tolerance))

    def run(self):
        """Compile, fill the buffers, run; compare every result, and every border with zeros."""
        isa, plan = self.isa, self.plan
        library = self.version.compiler.Compiler().load(
            self.version.codegen.generate(self.steps, isa), isa, cache=False
        )
        weights = self.version.buffers.aligned(sum(packed.size for packed in self.packed))
        weights[...] = np.concatenate(self.packed) if self.packed else 0
        plan.allocate()
        for buffer in plan.buffers:
            buffer.array[...] = np.nan
        for x, data, out, _, residual, _ in self.checks:
            x.array[...] = grouped(data, x.lanes)
            out.array[...] = grouped(np.broadcast_to(residual, out.shape), out.lanes)
        if self.version is V5:
            library.forward.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
            library.forward(weights.ctypes.data, plan.memory.ctypes.data, 0, len(self.steps))
        else:
            self.version.threads.Pool(library, weights, plan.memory, self.threads).run(0, len(self.steps))
        for x, data, out, expected, _, tolerance in self.checks:
            assert_close(out.channels_last(), expected, f"{x} to {out}", tolerance)
            np.testing.assert_array_equal(x.channels_last(), data, err_msg="the input was changed")
        for buffer in plan.buffers:  # what it holds but its pixels is zero
            everything = plan.memory[buffer.offset : buffer.offset + buffer.size]
            assert np.count_nonzero(everything) == np.count_nonzero(buffer.array), f"the border of {buffer} was changed"


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
    arrays = data.transpose(2, 0, 1)[None], weight.transpose(0, 3, 1, 2), bias
    tensors = [torch.from_numpy(array.astype(np.float64)) for array in arrays]
    expected = torch.nn.functional.conv2d(*tensors, stride=stride, padding=padding)[0].numpy().transpose(1, 2, 0)
    expected = expected + residual * case["add"]
    expected = np.maximum(expected, 0) if case["relu"] else expected
    operators.expect(x, data, out, expected, residual if case["add"] else np.nan, 3e-5 if size else 1e-5)
