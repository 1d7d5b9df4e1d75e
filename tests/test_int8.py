"""Version 8: exact sums and the same bytes from every instruction set, tile and number of threads; and its accuracy.

An instruction set that this machine lacks runs as plain C, after the manual's pseudo-code (int8_model/immintrin.h).
"""

import ctypes
import json
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from common import export_weights
from common.marked import fill
from common.versions import ROOT, load_version
from common.weights_file import intact
from docs import int8_bits, int8_kernel
from tests.codegen_support import own_cache as own_cache
from tests.codegen_support import random_image
from tests.outside_support import CROSS, EMULATOR, POOL, SANITIZER, run_outside
from training.evaluate import evaluate
from training.pictures import find

V8 = load_version("v8_int8")
HERE = list(V8.compiler.Compiler().isas)
ISAS = V8.compiler.ISAS
# The real ones of this machine, and all that x86 knows as plain C, in small tiles, which compile faster.
IN_C = ("-O1", "-I", str(Path(__file__).with_name("int8_model")))
MACHINES = {name: ISAS[name] for name in HERE}
MACHINES |= {f"{name} in C": ISAS[name]._replace(flags=IN_C, pixels=2) for name in ("avx512", "avx2")}
MACHINES["amx in C"] = ISAS["amx"]._replace(flags=(*IN_C, "-D__AMX_INT8__"), pixels=6)
MACHINES["avxvnni in C"] = ISAS["avxvnni"]._replace(flags=(*IN_C, "-D__AVXVNNI__"), pixels=3)
each_machine = pytest.mark.parametrize("isa", MACHINES.values(), ids=MACHINES.keys())

CALLS = """
void run16(int *sum, const byte *x, const byte *w) {
    vector total = *(vector *)sum, part = begin(total);
    for (int n = 0; n < 4; n += 1) {
        part = dot4(part, broadcast(x + 4 * n), *(const vector *)(w + 4 * WIDTH * n));
    }
    *(vector *)sum = end(total, part);
}
void get_bytes(float *to, const byte *from) { *(floats *)to = get(from); }
void put_floats(byte *to, const float *from) { put(to, *(floats *)from, *(floats *)(from + WIDTH)); }
"""


def build(path, size, isa, threads=1, pools=None, **options):
    """A network for an instruction set that need not be this machine's.

    pools: {layout: weight pool} of networks before that differed in nothing else.
    """
    make = V8.resnet50.WeightPool

    def pool(*arguments):
        layout = isa.width, isa.tiles
        return pools.setdefault(layout, pools.get(layout) or make(*arguments))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(V8.compiler.Compiler, "isa", lambda self, name: isa)
        if pools is not None:
            patch.setattr(V8.resnet50, "WeightPool", pool)
        return V8.resnet50.ResNet50(path, size, threads=threads, **options)


def aligned(array):
    memory = V8.buffers.aligned(array.nbytes).view(array.dtype).reshape(array.shape)
    memory[...] = array
    return memory


class Dot:
    """The functions of dot.h for an instruction set."""

    def __init__(self, isa):
        text = "\n".join([*V8.codegen.vector_types(isa), CALLS])
        self.library, self.width = V8.compiler.Compiler().load(text, isa, cache=True), isa.width

    def run16(self, x, w, sums):
        """x: 16 activations; w: (channels of a vector, 16) weights. Returns sums + w @ x as the C code computes it."""
        x, sums = aligned(x.astype(np.int8)), aligned(sums.astype(np.int32))
        w = aligned(np.ascontiguousarray(w.astype(np.int8).reshape(self.width, 4, 4).transpose(1, 0, 2)))
        self.library.run16(*(ctypes.c_void_p(array.ctypes.data) for array in (sums, x, w)))
        return sums

    def put(self, numbers):
        to, numbers = aligned(np.full(2 * self.width, 77, np.int8)), aligned(numbers.astype(np.float32))
        self.library.put_floats(ctypes.c_void_p(to.ctypes.data), ctypes.c_void_p(numbers.ctypes.data))
        return to

    def get(self, numbers):
        to, numbers = aligned(np.full(self.width, np.nan, np.float32)), aligned(numbers)
        self.library.get_bytes(ctypes.c_void_p(to.ctypes.data), ctypes.c_void_p(numbers.ctypes.data))
        return to


@each_machine
def test_dot4_is_exact_at_the_extremes(isa, rng):
    """Each dot4 alone, with activations and weights as large as they can be, and sums near 2^31."""
    dot = Dot(isa)
    for x in (0, 1, 127):
        for w in (-127, -63, -1, 0, 1, 63, 127):
            for place in range(16):
                pair = place // 2 * 2  # two products share 16 bits: 2 * 127 * 127 fits
                weights = np.zeros((dot.width, 16), int)
                weights[:, pair : pair + 2] = w
                sums = rng.integers(-(2**30), 2**30, dot.width)
                np.testing.assert_array_equal(dot.run16(np.full(16, x), weights, sums), sums + 2 * w * x)


@each_machine
def test_a_run_of_16_is_exact_if_its_weights_are_scaled_to_fit(isa, rng):
    """Eight products share 16 bits; nothing may be lost, even if all weights are equal and all activations 127."""
    dot = Dot(isa)
    for spread in (0.0, 0.3, 1.0, 3.0):
        real = np.exp(spread * rng.standard_normal((dot.width, 1, 1, 16))) * rng.choice([-1, 1], (dot.width, 1, 1, 1))
        weights = V8.weights.to_bytes(real, 0)[0].reshape(dot.width, 16)
        for x in (np.full(16, 127), rng.integers(0, 128, 16)):
            sums = rng.integers(-(2**20), 2**20, dot.width)
            np.testing.assert_array_equal(dot.run16(x, weights, sums), sums + weights @ x)


@pytest.mark.parametrize("isa", [isa for name, isa in MACHINES.items() if name.startswith("avx2")])
def test_what_the_scales_prevent(isa):
    """The article's numbers: activations of 8 bits make vpmaddubsw saturate, and 8 products of 127 * 127 overflow."""
    dot = Dot(isa)
    weights = np.zeros((8, 16), int)
    weights[:, :2] = 127
    assert (dot.run16(np.full(16, 255), weights, np.zeros(8)) == 32767).all()  # not 2 * 255 * 127 = 64770
    assert not (dot.run16(np.full(16, 127), np.full((8, 16), 127), np.zeros(8)) == 16 * 127 * 127).any()


@each_machine
def test_bytes_are_rounded_half_to_even_and_clamped(isa):
    dot = Dot(isa)
    numbers = np.array(
        [0.5, 1.5, 2.5, 126.5, 127.5, 128, 1e9, 2.1e9, 32768, -0.5, -0.6, -1, -200, -32769, -2.1e9, 63.49]
    )
    right = np.array([0, 2, 2, 126, 127, 127, 127, 127, 127, 0, 0, 0, 0, 0, 0, 63])
    for shift in range(16):
        found = dot.put(np.resize(np.roll(numbers, shift), 2 * dot.width))
        np.testing.assert_array_equal(found, np.resize(np.roll(right, shift), 2 * dot.width))
    for start in (0, 1, 100, 127 - dot.width):
        np.testing.assert_array_equal(
            dot.get(np.arange(start, start + dot.width, dtype=np.int8)), start + np.arange(dot.width)
        )


@given(st.integers(0, 2**32 - 1), st.sampled_from([16, 24, 48, 80]), st.sampled_from([0.1, 1, 3]), st.floats(-30, 30))
def test_weights_fit_and_are_close(seed, channels, spread, exponent):
    rng = np.random.default_rng(seed)
    real = rng.standard_normal((3, 2, 1, channels)) * np.exp(spread * rng.standard_normal((3, 2, 1, channels)))
    real *= 10.0**exponent
    real[1] = 0
    whole, scale = V8.weights.to_bytes(real, 0)
    assert (
        np.isfinite(scale).all() and (scale > 0).all() and abs(whole).max() <= 127 and (whole == np.rint(whole)).all()
    )
    assert (abs(whole * scale[:, None, None, None] - real) <= 0.501 * scale[:, None, None, None]).all()
    # (run of 16, or of 12 in a picture's 24; four, half of a four, 2): a half's channels of all fours share 16 bits
    lanes = whole.reshape(-1, 3 if channels == 24 else 4, 2, 2)
    for sign in (1, -1):
        assert 127 * np.maximum(sign * lanes, 0).sum(axis=(1, 3)).max() <= 32767


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.floats(-12, 12)] * 5))
def test_no_number_on_the_way_reaches_2_to_the_31(seed, exponents):
    """So that `put` may leave clamping to the narrowing instruction, whatever weights, biases and ranges are like."""
    rng, (weights, biases, *ranges) = np.random.default_rng(seed), 10.0 ** np.array(exponents)
    x, residual, out = ranges
    weight = weights * rng.standard_normal((5, 3, 3, 512)) * 10.0 ** rng.integers(-9, 1, (5, 1, 1, 1))
    bias = biases * rng.standard_normal(5)
    step = SimpleNamespace(name="out", reads=("x", "residual"), x=SimpleNamespace(channels=512))
    scales = {"x": (x, 0), "residual": (residual, 64), "out": (out, 64)}
    whole, (start, factor, of_residual) = V8.weights.quantized(weight, bias, step, scales)
    most = 127 * abs(whole).sum(axis=(1, 2, 3))
    assert (start == np.rint(start)).all() and (abs(start) + most < 2**31).all() and (factor > 0).all()
    assert ((abs(start) + most) * factor + 127 * of_residual < 2**31).all()
    exact = bias + 64 * out - 64 * residual  # what a sum of zero stands for, to half of a sum's one
    assert (abs(start - exact / (factor * out)) <= 0.5 + 1e-9 * abs(start))[factor < 2].all()


def real_convolution(x, weight, stride, padding):
    """Exact for integers: float64 holds them."""
    tensors = [torch.from_numpy(np.ascontiguousarray(a, np.float64)) for a in (x.transpose(2, 0, 1)[None], weight)]
    return torch.nn.functional.conv2d(*tensors, stride=stride, padding=padding)[0].numpy().transpose(1, 2, 0)


def expected_output(model, file, step, x, residual):
    """What a step must write, from the bytes that it read: integers, and float32 in a fixed order."""
    operator, arguments, one = step.operator.__name__, step.arguments, np.float32
    if operator == "quantize":
        return np.clip(np.rint(x * one(1 / model.scales[step.name][0]) + one(64)), 0, 127)
    if operator in ("max_pool", "subsample"):
        x = torch.from_numpy(x.astype(np.float64).transpose(2, 0, 1)[None])
        kernel = arguments.get("kernel", 1)
        y = torch.nn.functional.max_pool2d(x, kernel, arguments["stride"], arguments.get("padding", 0))
        return y[0].numpy().transpose(1, 2, 0)
    if operator == "average_pool":
        factor = one(model.scales[step.reads[0]][0] / (x.shape[0] * x.shape[1]) / model.scales[step.name][0])
        return np.clip(np.rint(one(x.sum(axis=(0, 1), keepdims=True)) * factor), 0, 127)
    weight, factors = V8.weights.quantized(*V8.weights.prepare(file, step), step, model.scales)
    stride, padding = arguments.get("stride", 1), arguments.get("padding", 0)
    if step.name == "conv1":  # a kernel's row is seven pixels, and zeros; its border holds the byte for zero
        weight = weight[..., :21].reshape(-1, 7, 7, 3)
        x, padding = np.pad(x, ((3, 3), (3, 3), (0, 0)), constant_values=64), 0
    bias, (factor, of_residual) = factors[0], factors[1:].astype(np.float32)
    y = (real_convolution(x, weight.transpose(0, 3, 1, 2), stride, padding) + bias).astype(np.float32) * factor
    if arguments.get("add"):
        y = y + residual.astype(np.float32) * of_residual
    return y if operator == "fully_connected" else np.clip(np.rint(y), 0, 127)


REST = [pytest.param(name, 65, marks=pytest.mark.exhaustive) for name in HERE[1:]]


@pytest.mark.parametrize(("name", "size"), [(HERE[0], 32), (HERE[0], 65), (HERE[0], 225), *REST])
def test_every_step_computes_the_right_bytes(name, size, small_weights_file, rng):
    """Step by step, from buffers full of other bytes."""
    model = build(small_weights_file, size, ISAS[name])
    for buffer in model.network.plan.buffers[1:]:
        buffer.array.view(np.int8)[...] = rng.integers(0, 128, buffer.array.view(np.int8).shape)
    model.network.image.array[0] = 2 * random_image(rng, size)
    with safe_open(small_weights_file, framework="numpy") as file:
        for index, step in enumerate(model.steps):
            x, residual = step.x.channels_last(), step.out.channels_last()
            expected = expected_output(model, file, step, x, residual)
            model.run(index, index + 1)
            found = step.out.channels_last()
            np.testing.assert_array_equal(found[:, :, : expected.shape[2]], expected, err_msg=step.name)
            if step.name == "conv1":
                assert np.unique(found).size > 50, "nearly all outputs are clamped: this would test nothing"


EMULATED = set() if "avx512" in HERE else {"avx512 in C"}  # the real one tests the same
EVERYTHING = pytest.param(97, MACHINES, (1, 2, 3, 5, 7), marks=pytest.mark.exhaustive)


@pytest.mark.parametrize(("size", "names", "tiles"), [(33, {*HERE, *EMULATED}, (7,)), EVERYTHING])
def test_all_instruction_sets_threads_and_tiles_give_the_same_logits(size, names, tiles, small_weights_file, rng):
    image, best, pools = random_image(rng, size), ISAS[HERE[0]], {}
    logits = build(small_weights_file, size, best, 1, pools).forward(image)
    assert logits.dtype == np.float32 and np.isfinite(logits).all() and np.ptp(logits) > 0
    others = [(MACHINES[name], 1) for name in names] + [(best, threads) for threads in (2, 3, 5, 7, 33)]
    for isa, threads in others + [(best._replace(pixels=pixels), 1) for pixels in tiles]:
        found = build(small_weights_file, size, isa, threads, pools).forward(image)
        np.testing.assert_array_equal(found, logits, f"{isa}, {threads} threads")


def logits_outside(isa, weights_file, size, image, compile_command, run_command, directory):
    """Compile the program with a driver that reads memory of its exact size; return the logits that it computes."""
    network = V8.resnet50.Network(size, 7, isa)
    network.plan.allocate()
    network.plan.memory.fill(64)
    network.image.array[0] = image
    scales = V8.calibration.calibrate(weights_file, network.steps, size, None, cache=True)
    weights = V8.weights.WeightPool(weights_file, network.steps, isa, scales).array
    for buffer in network.plan.bordered:
        network.plan.memory[buffer.offset : buffer.offset + buffer.size] = 0
    call = "extern long syscall(long, ...); syscall(158, 0x1023, 18);" * isa.tiles + POOL  # as amx.allowed does
    program = V8.codegen.generate(network.steps, isa), call, len(network.steps), weights, network.plan.memory
    result = run_outside(*program, [*compile_command, *V8.compiler.FLAGS[1:2]], run_command, directory)
    return result[network.logits.offset :][:28].view(np.float32)


OTHERS = [pytest.param(name, marks=pytest.mark.exhaustive) for name in HERE[1:]]


@pytest.mark.parametrize("name", [HERE[0], "amx in C", *OTHERS])
def test_under_sanitizers(name, small_weights_file, rng, tmp_path):
    """In C, AMX's loads are watched, too: they may read beyond a row's end, and not beyond the memory's."""
    image, isa = random_image(rng, 33), MACHINES[name]
    command = [*SANITIZER, "-fsanitize=address,undefined", *isa.flags]
    found = logits_outside(isa, small_weights_file, 33, image, command, [], tmp_path)
    np.testing.assert_array_equal(found, build(small_weights_file, 33, ISAS[HERE[0]]).forward(image))


@pytest.mark.skipif("neon" in HERE, reason="this machine needs no emulation: HERE has neon, for all tests")
@pytest.mark.skipif(not CROSS, reason="no cross compiler: apt-get install gcc-aarch64-linux-gnu")
@pytest.mark.skipif(not EMULATOR, reason="no emulator: apt-get install qemu-user-static")
def test_an_emulated_arm_gives_the_same_logits(small_weights_file, rng, tmp_path):
    image, isa = random_image(rng, 40), ISAS["neon"]
    command = [*CROSS, "-static", "-O2", *isa.flags]
    found = logits_outside(isa, small_weights_file, 40, image, command, [EMULATOR], tmp_path)
    np.testing.assert_array_equal(found, build(small_weights_file, 40, ISAS[HERE[0]]).forward(image))


@pytest.mark.parametrize(
    ("name", "instruction", "count"),  # dot4: fours of a group, vectors, pixels
    [("avx512", "vpdpbusd", 32), ("avxvnni", "vpdpbusd", 32), ("avx2", "vpmaddubsw", 32), ("amx", "tdpbusd", 4)],
)
def test_products_become_their_instruction(name, instruction, count, tmp_path):
    """Compilers know instructions that this machine lacks."""
    compiler, isa = V8.compiler.Compiler(), ISAS[name]
    if "__x86_64__" not in compiler.macros:
        pytest.skip("no compiler for x86")
    steps = [step for step in V8.resnet50.Network(32, 7, isa).steps if step.name == "layer1.0.conv2"]
    (tmp_path / "text.c").write_text(V8.codegen.generate(steps, isa))
    compiler.run("-O2", *isa.flags, "-w", "-S", "-o", tmp_path / "text.s", tmp_path / "text.c")
    assert (tmp_path / "text.s").read_text().count(instruction) >= count


def test_amx_is_used_only_if_the_system_allows_it(monkeypatch):
    macros = "#define __AMX_INT8__ 1\n#define __AVX512VNNI__ 1\n"
    monkeypatch.setattr(V8.compiler.Compiler, "run", lambda *arguments: macros)
    for allowed in (True, False):
        monkeypatch.setattr(V8.compiler.amx, "allowed", lambda allowed=allowed: allowed)
        assert ("amx" in V8.compiler.Compiler().isas) == allowed


def test_probes_are_near_the_float32_network(small_weights_file, rng):
    v6 = load_version("v6_threads").resnet50.ResNet50(small_weights_file, 64)
    v8 = V8.resnet50.ResNet50(small_weights_file, 64)
    path = ROOT / "samples" / "cat.jpg"
    image = V8.image.load_image(path, intact(small_weights_file)["preprocessing"] | {"resize": 64, "crop": 64})
    right, found = {}, {}
    v6.forward(image, probe=right.__setitem__), v8.forward(image, probe=found.__setitem__)
    assert list(found) == list(right)
    kept = (logits := v8.forward(image)).copy()
    v8.forward(-image)
    np.testing.assert_array_equal(logits, kept)
    for name, array in right.items():
        assert found[name].shape == array.shape and found[name].dtype == np.float32
        error = np.sqrt(np.mean((found[name] - array) ** 2) / np.mean(array**2))
        assert error < 0.5, f"{name}: {error}"  # 0.3 in layer4, since random weights amplify; a lost channel is 1


def test_the_demo_models_logits_are_near_on_photographs(demo_weights):
    """Of the calibration and three more: differences of 0.04 of the logits' own spread; 0.06 if one picture chose."""
    preprocessing = intact(demo_weights)["preprocessing"]
    paths = [*V8.calibration.find_pictures(V8.calibration.PICTURES), *sorted((ROOT / "samples").glob("*.jpg"))]
    images = [V8.image.load_image(path, preprocessing) for path in paths]
    v6 = load_version("v6_threads").resnet50.ResNet50(demo_weights, preprocessing["crop"])
    v8 = V8.resnet50.ResNet50(demo_weights, preprocessing["crop"], cache=False)
    right, found = (np.array([*map(model.forward, images)]) for model in (v6, v8))
    assert np.sqrt(np.mean((found - right) ** 2) / np.mean(right.var(axis=1))) < 0.045
    np.testing.assert_array_equal(found.argmax(axis=1), right.argmax(axis=1))


def test_the_sample_is_what_show_prints():
    command = [sys.executable, ROOT / "v8_int8" / "show.py", "layer1.0.conv2", "--isa", "avx2"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown == (ROOT / "v8_int8" / "sample.c").read_text("utf-8")


def test_what_the_limit_of_sums_costs_the_demo_model(demo_weights):
    """The article's numbers: how much larger a channel's scale is than its largest weight asks for."""
    manifest = intact(demo_weights)
    network = V8.resnet50.Network(manifest["preprocessing"]["crop"], manifest["num_classes"], ISAS["avx2"])
    larger = []
    with safe_open(demo_weights, framework="numpy") as file:
        for step in network.steps:
            if step.has_weights and step.name != "conv1":
                weight, _ = V8.weights.prepare(file, step)
                scale, most = V8.weights.to_bytes(weight, 0)[1], abs(weight).max(axis=(1, 2, 3)) / 127
                larger.append((scale / np.maximum(most, 1e-30))[most > 0])
    larger = np.concatenate(larger)
    assert abs(np.mean(larger > 1.0001) - 0.75) < 0.01 and np.mean((larger > 1.0001) & (larger < 4 / 3)) > 0.375
    assert abs(np.mean(larger > 2) - 1 / 400) < 0.001 and abs(np.mean(np.log2(larger)) - 0.26) < 0.01


def test_the_bits_of_the_article_are_simulated_near_the_float32_network(demo_weights):
    """A layout of weights that is read wrongly gives a correlation near 0."""
    preprocessing = intact(demo_weights)["preprocessing"]
    image = torch.from_numpy(V8.image.load_image(ROOT / "samples" / "cat.jpg", preprocessing).transpose(2, 0, 1)[None])
    with torch.no_grad():
        exact, found = (
            int8_bits.Simulated(demo_weights, preprocessing["crop"], int8_bits.ROWS[name]).forward(image)[0]
            for name in (int8_bits.FLOAT, "7 / 8")
        )
    assert np.corrcoef(exact, found)[0, 1] > 0.99


def test_the_article_shows_the_accuracy_that_was_measured():
    measured = json.loads(int8_bits.RESULTS.read_text("utf-8"))
    text = int8_bits.ARTICLE.read_text("utf-8")
    assert fill(text, "bits", int8_bits.table(measured)) == text
    assert measured["pictures"] == 10_000 and measured["accuracy"].keys() == int8_bits.ROWS.keys()


def test_the_article_shows_the_times_that_were_measured():
    measured, text = json.loads(int8_kernel.RESULTS.read_text("utf-8")), int8_kernel.ARTICLE.read_text("utf-8")
    assert all(fill(text, name, table(measured)) == text for name, table in int8_kernel.TABLES.items())
    assert sum(measured["steps"].values()) < 2 * measured["tiles"]["4"] and len(measured["steps"]) == 60


TINY = ROOT.parent / "shared" / "data" / "tiny_imagenet"


@pytest.mark.skipif(not TINY.exists(), reason="no labelled pictures")
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.exhaustive)])
def test_keeps_the_demo_models_accuracy(count, tmp_path):
    """At most 0.3 points are lost on 10,000 pictures; on 300, the two versions differ by chance in a few."""
    out = tmp_path / "demo.safetensors"
    assert export_weights.main(["demo", "--out", str(out)]) == 0
    _, pictures, names = find(TINY)
    pictures = random.Random(0).sample(pictures, count)
    real, whole = (evaluate(version, pictures, names, out) for version in ("v6_threads", "v8_int8"))
    for top in ("top1", "top5"):
        assert real[top] - whole[top] <= (0.003 if count == 10_000 else 0.02)
