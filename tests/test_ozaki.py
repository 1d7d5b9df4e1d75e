"""Version 9: digits, convolutions out of their products, the largest numbers that scale them, threads.

AMX's instructions run as plain C, too, on every machine, after the manual's pseudo-code (int8_model/immintrin.h).
"""

import re
import subprocess
import sys
from math import sqrt
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.reference import reference_logits
from tests.codegen_support import V6, V9, Operators, check_network, convolution, random_image
from tests.codegen_support import own_cache as own_cache
from tests.outside_support import POOL, SANITIZER, run_outside
from tests.torch_reference import assert_close

ISAS = V9.compiler.ISAS
HERE = V9.compiler.Compiler().isas
PLAIN = [name for name, isa in HERE.items() if not isa.tiles]
IN_C = "-I", str(Path(__file__).with_name("int8_model"))
MACHINES = {name: isa for name, isa in HERE.items() if isa.tiles}  # this machine's first, if it has AMX
MACHINES["amx in C"] = ISAS["amx"]._replace(flags=(*IN_C, *HERE[PLAIN[0]].flags))
each_machine = pytest.mark.parametrize("isa", MACHINES.values(), ids=MACHINES.keys())
BEST = next(iter(MACHINES.values()))
SEEDS, LARGEST = st.integers(0, 2**32 - 1), V9.ozaki.LARGEST


def build(path, size, isa, threads=1):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(V9.compiler.Compiler, "isa", lambda self, name: isa)
        return V9.resnet50.ResNet50(path, size, threads=threads)


def integers(digits, axis):
    """Put digits together, which lie on that axis."""
    return np.tensordot([65536, 256, 1], digits.astype(np.int64), axes=(0, axis))


class Ozaki(Operators):
    """As Operators, and `run` checks all digits, and what is kept of each output's largest number."""

    def __init__(self, isa, threads=1):
        super().__init__(V9, isa, threads)

    def pack(self, step, weight, bias, packed):
        V9.ozaki.pack_digits(weight.astype(np.float64), bias, packed)

    def run(self):
        super().run()
        for x, out, operator in ((step.x, step.out, step.operator) for step in self.steps):
            kept = self.plan.memory[out.offset - V9.buffers.PARTS * self.threads : out.offset]
            if operator is V9.ozaki.ozaki_input:
                self.check_digits(x.channels_last(), out, kept[-1])
            else:
                assert kept.max() == max(out.array.max(), 0)

    def check_digits(self, x, out, unit):
        """They are within half a unit, and three roundings to float32: of the unit, of its inverse, of a product."""
        digits = out.array.view(np.int8).reshape(*out.array.shape[:3], 3, 16, 4)  # groups, height, width, ...
        found, most = integers(digits, 3).transpose(1, 2, 0, 4, 3).reshape(x.shape), x.max()
        assert unit == most / np.float32(LARGEST) and found.min() >= 0
        if most <= 1e-30:
            assert not found.any()
        else:
            assert (abs(found * np.float64(unit) - x) <= 0.5 * unit + 3 * 2.0**-24 * x).all()

    def note_input(self, rng, height, width, groups, border, scale, around=0):
        """Note steps for the digits of random numbers, half of them zeros. border, around: of x and of the digits."""
        source, x = (self.take(height, width, V9.ozaki.GROUP * groups, border=b) for b in (0, border))
        digits = self.plan.take("digits", *V9.ozaki.digits_shape(x), border=around)
        self.note(V9.ops.subsample, source, x, stride=1)  # copies, and keeps the largest number
        self.note(V9.ozaki.ozaki_input, x, digits)
        return source, (scale * np.maximum(rng.standard_normal(x.shape), 0)).astype(np.float32), digits

    def note_convolution(self, rng, kernel, stride, channels, add, relu, **case):
        """The tolerance: a product lacks x1 w2 + x2 w1 + x2 w2 and half units, each as likely too large as too small.

        With digits evenly spread this is 2^-25 of the largest x and w, and over n products sqrt(n) times as much; of
        10^7 sums, the worst may have six times that. What float32 rounds off at the end is added.
        """
        source, data, digits = self.note_input(rng, **case, around=kernel // 2)
        height, width = ((extent - 1) // stride + 1 for extent in source.shape[:2])
        out = self.take(height, width, channels, case["border"])
        size = max(case["scale"], 1e-9)
        bias, residual = (size * rng.standard_normal(shape).astype(np.float32) for shape in (channels, out.shape))
        weight = rng.standard_normal((channels, kernel, kernel, source.channels)).astype(np.float32)
        weight[rng.integers(channels)] = 0
        options = {"stride": stride, "padding": kernel // 2, "add": add, "relu": relu}
        self.note(V9.ozaki.ozaki_conv2d, digits, out, weight, bias, kernel=kernel, **options)
        expected = convolution(data, weight, bias, residual, **options)
        error = 2**-22 * sqrt(weight[0].size) * data.max() * abs(weight).max() / abs(expected).max() + 2**-22
        self.expect(source, data, out, expected, residual if add else np.nan, error)


SHAPE = {"height": st.integers(1, 20), "width": st.integers(1, 20) | st.sampled_from([7, 14, 15, 17, 28, 33])}
SHAPE |= {"groups": st.integers(1, 4), "border": st.integers(0, 1)}
SCALES = st.floats(-40, 37).map(lambda exponent: 10**exponent)
NUMBERS = st.fixed_dictionaries({**SHAPE, "around": st.integers(0, 1), "scale": SCALES})
CONVOLUTION = st.fixed_dictionaries({
    "kernel": st.sampled_from([1, 3]), "stride": st.integers(1, 2), "channels": st.sampled_from([64, 128, 192, 256]),
    "add": st.booleans(), "relu": st.booleans(), "scale": st.sampled_from([1, 1e-9, 1e9, 1e-33, 0]), **SHAPE,
})  # fmt: skip


@each_machine
@settings(max_examples=2)
@given(cases=st.lists(NUMBERS, min_size=8, max_size=12), threads=st.integers(1, 9), seed=SEEDS)
def test_digits_of_activations(isa, cases, threads, seed):
    """Of all sizes: up to 1e-30 they are zeros."""
    rng, operators = np.random.default_rng(seed), Ozaki(isa, threads)
    for case in [*cases, cases[0] | {"scale": 0}, cases[1] | {"scale": 1e-31}]:
        operators.expect(*operators.note_input(rng, **case)[:2])
    operators.run()


@each_machine
@settings(max_examples=3)
@given(cases=st.lists(CONVOLUTION, min_size=6, max_size=9), threads=st.integers(1, 9), seed=SEEDS)
def test_convolutions(isa, cases, threads, seed):
    rng, operators = np.random.default_rng(seed), Ozaki(isa, threads)
    for case in cases:
        operators.note_convolution(rng, **case)
    operators.run()


@given(panels=st.integers(1, 5), groups=st.integers(1, 4), kernel=st.sampled_from([1, 3]), exponent=st.floats(-22, 30),
       seed=SEEDS)  # fmt: skip
def test_digits_of_weights(panels, groups, kernel, exponent, seed):
    """Within half a unit, and the rounding of the unit to float32; each channel has its own."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((16 * panels, kernel, kernel, 64 * groups)) * 10**exponent
    weight *= 10.0 ** rng.integers(-6, 1, (len(weight), 1, 1, 1))
    weight[rng.integers(len(weight))] = 0
    bias = rng.standard_normal(len(weight)).astype(np.float32)
    packed = np.full(len(weight) * 2 + weight.size * 3 // 4, np.nan, np.float32)
    V9.ozaki.pack_digits(weight, bias, packed)
    biases, units = packed[: 2 * len(weight)].reshape(panels, 2, 16).transpose(1, 0, 2).reshape(2, -1)
    np.testing.assert_array_equal(biases, bias)
    digits = packed[2 * len(weight) :].view(np.int8).reshape(panels, groups, kernel, kernel, 3, 16, 16, 4)
    found = integers(digits, 4).transpose(0, 5, 2, 3, 1, 6, 4).reshape(weight.shape)  # word n: n, 16 + n, 32 + n, ...
    units = units.astype(np.float64)[:, None, None, None]
    assert (abs(found * units - weight) <= 0.501 * units + 2.0**-24 * abs(weight)).all()
    assert abs(found).max() == LARGEST and (units > 0).all()


def test_every_thread_keeps_all_of_its_parts_apart():
    assert f"enum {{ PARTS = {V9.buffers.PARTS}," in V9.threads.POOL
    for threads in (1, 2, 3, 33):
        plan = V9.resnet50.Network(64, 7, BEST, threads).plan
        for buffer in plan.buffers:
            start = buffer.offset - V9.buffers.PARTS * threads
            assert start >= 0
            for other in plan.buffers:
                assert not other.border or start >= other.offset + other.size or buffer.offset <= other.offset


@pytest.mark.parametrize("size", [33, *(pytest.param(size, marks=pytest.mark.exhaustive) for size in (65, 97, 224))])
def test_any_machine_threads_and_picture_before_give_the_same_logits(size, small_weights_file, rng):
    image, logits, more = random_image(rng, size), [], size > 33  # at 33, test_under_sanitizers has them in C
    others = [(BEST, 2), (BEST, 5), (MACHINES["amx in C"], 1)] if more else []
    for isa, threads in [(BEST, 1), (BEST, 3), *others]:
        model = build(small_weights_file, size, isa, threads)
        logits.append(model.forward(image))
        model.forward(1e6 * image)
        logits.append(model.forward(image))
    assert_close(logits[0], reference_logits(small_weights_file, image), "logits")
    np.testing.assert_array_equal(logits, [logits[0]] * len(logits))


@pytest.mark.parametrize("size", [97, *(pytest.param(size, marks=pytest.mark.exhaustive) for size in (32, 225, 321))])
def test_network(size, small_weights_file, rng):
    check_network(build(small_weights_file, size, BEST, 2), small_weights_file, rng)


@pytest.mark.parametrize("isa", [PLAIN[0], *(pytest.param(isa, marks=pytest.mark.exhaustive) for isa in PLAIN[1:])])
def test_without_tiles_it_is_version_6(isa, small_weights_file, rng):
    image = random_image(rng, 65)
    found, expected = (
        version.resnet50.ResNet50(small_weights_file, 65, isa=isa, threads=2).forward(image) for version in (V9, V6)
    )
    np.testing.assert_array_equal(found, expected)


SANITIZED = [*SANITIZER, "-w", "-fsanitize=address,undefined", *MACHINES["amx in C"].flags]


def test_under_sanitizers(small_weights_file, rng, tmp_path):
    """AMX's loads, in C, are watched, too. All memory but borders and the picture is full of other numbers."""
    image, network = random_image(rng, 33), V9.resnet50.Network(33, 7, MACHINES["amx in C"], 3)  # threads, as POOL has
    network.plan.allocate()
    network.plan.memory.fill(1e30)
    for buffer in network.plan.buffers:
        if buffer.border:
            network.plan.memory[buffer.offset : buffer.offset + buffer.size] = 0
    network.image.array[0] = image
    weights = V9.weights.WeightPool(small_weights_file, network.steps, network.isa).array
    text = V9.codegen.generate(network.steps, network.isa)
    found = run_outside(text, POOL, len(network.steps), weights, network.plan.memory, SANITIZED, [], tmp_path)
    logits = found[network.logits.offset :][:7]
    assert_close(logits, reference_logits(small_weights_file, image), "logits")


@pytest.mark.parametrize("stride", [1, 2])
def test_loads_end_in_the_memory(stride, rng, tmp_path):
    """17 pixels are tiles of 9 and 8, and those of 8 load 9: here from beyond the last of all buffers."""
    operators, extent = Ozaki(MACHINES["amx in C"], 3), 16 * stride + 1
    out, plan = operators.take(17, 17, 64), operators.plan
    x = plan.take("digits", (extent, extent, 48), 48, border=1)
    options = {"kernel": 3, "stride": stride, "padding": 1, "add": False, "relu": True}
    operators.note(V9.ozaki.ozaki_conv2d, x, out, rng.standard_normal((64, 3, 3, 64)), np.ones(64), **options)
    plan.allocate()
    text = V9.codegen.generate(operators.steps, operators.isa)
    found = run_outside(text, POOL, 1, operators.packed[0], plan.memory, SANITIZED, [], tmp_path)
    assert (found[out.offset : out.offset + out.size] == 1).all()


def test_products_become_their_instruction(tmp_path):
    """Compilers know instructions that this machine lacks."""
    compiler, isa = V9.compiler.Compiler(), ISAS["amx"]
    if "__x86_64__" not in compiler.macros:
        pytest.skip("no compiler for x86")
    steps = [step for step in V9.resnet50.Network(32, 7, isa).steps if step.name == "layer1.0.conv2"]
    (tmp_path / "text.c").write_text(V9.codegen.generate(steps, isa))
    compiler.run("-O2", *isa.flags, "-w", "-S", "-o", tmp_path / "text.s", tmp_path / "text.c")
    assert len(re.findall("tdpbssd", (tmp_path / "text.s").read_text())) == 6 * 2  # for two rows of pixels


def test_tiles_are_used_only_if_the_system_allows_it(monkeypatch):
    macros = "".join(f"#define {macro} 1\n" for macro in ISAS["amx"].macros)
    monkeypatch.setattr(V9.compiler.Compiler, "run", lambda *arguments: macros)
    for refused in (0, -1):
        system = SimpleNamespace(syscall=lambda *request, refused=refused: refused)
        monkeypatch.setattr(V9.compiler.ctypes, "CDLL", lambda name, system=system: system)
        assert ("amx" in V9.compiler.Compiler().isas) == (refused == 0)


def test_the_sample_is_what_show_prints():
    command = [sys.executable, V9.directory / "show.py", "layer1.0.conv2", "--isa", "amx"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env={"CC": "/no/compiler"}).stdout
    assert shown == (V9.directory / "sample.c").read_text("utf-8")
