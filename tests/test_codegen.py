"""Version 5's generated operators, and the networks of versions 5 to 7, against float64; the text of the code."""

import re
import subprocess
import sys
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codegen_support import COMPILERS, HERE, V5, V6, V7, Operators, check_network, each_version, note_convolution
from tests.codegen_support import own_cache as own_cache

CONVOLUTION = st.fixed_dictionaries({
    "height": st.integers(1, 19), "width": st.integers(1, 33), "groups": st.integers(1, 5), "panels": st.integers(1, 3),
    "kernel": st.sampled_from([1, 3, 5]), "stride": st.integers(1, 2), "padding": st.integers(0, 2),
    "border": st.integers(0, 1), "add": st.booleans(), "relu": st.booleans(),
})  # fmt: skip


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("version", [V5, V6], ids=["v5", "v6"])
@settings(max_examples=4)
@given(
    cases=st.lists(CONVOLUTION, min_size=6, max_size=9), threads=st.integers(1, 9), seed=st.integers(0, 2**32 - 1),
    l1=st.sampled_from([1024, 4096, 32768]), l2=st.sampled_from([6144, 524288]),
)  # fmt: skip
def test_convolutions(version, isa, cases, threads, seed, l1, l2):
    rng, operators = np.random.default_rng(seed), Operators(version, isa, threads, l1=l1, l2=l2)
    for case in cases:
        note_convolution(operators, rng, case)
    note_convolution(operators, rng, cases[0] | {"kernel": 5, "groups": 1}, lanes=3)  # like the stem
    operators.run()


@pytest.mark.parametrize("isa", HERE)
def test_weights_in_several_chunks(isa, rng):
    """More input channels than fit one chunk, with and without a residual, for one pixel and for many."""
    case = {"height": 5, "width": 6, "panels": 2, "padding": 1, "border": 1, "stride": 1}
    operators = Operators(V5, isa)
    for kernel, channels, add, relu in [
        (1, 3072, 0, 1),
        (1, 4096, 1, 0),
        (3, 512, 1, 1),
        (3, 512, 0, 0),
        (3, 768, 0, 1),
    ]:
        more = {"kernel": kernel, "groups": channels // operators.isa.width, "add": bool(add), "relu": bool(relu)}
        note_convolution(operators, rng, case | more)
        assert operators.steps[-1].weight_layout(operators.isa)[2] > 1
    operators.run()


@given(
    groups=st.integers(1, 256), kernel=st.sampled_from([1, 3]), width=st.sampled_from([4, 8, 16]),
    l1=st.integers(8, 256), l2=st.integers(128, 4096),
)  # fmt: skip
def test_chunks_of_weights_fit_the_caches(groups, kernel, width, l1, l2):
    """They are as few as can be, and one if all weights fit the first-level cache and every pixel is new."""
    isa = V5.compiler.ISAS["generic128"]._replace(width=width, l1=1024 * l1, l2=1024 * l2)
    x, out = (V5.buffers.Buffer("", (7, 7, n * width), width) for n in (groups, 6))
    panel, panels, chunks = V5.ops.weight_layout(isa, x, out, kernel)
    assert (panel, panels) == (2 * width, 3) and groups % chunks == 0
    total, fewer = 4 * panel * width * groups * kernel**2, [n for n in range(1, chunks) if groups % n == 0]
    most = isa.l2 // 6 if kernel > 1 else isa.l1 if total <= isa.l1 else isa.l1 * 3 // 4
    assert chunks == groups or total <= chunks * most
    assert all(total > n * most for n in fewer)


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize(("version", "threads"), [(V5, 1), (V6, 3)], ids=["v5", "v6"])
def test_pooling(version, threads, isa, rng):
    operators = Operators(version, isa, threads)
    ops, channels = version.ops, 4 * operators.isa.width
    for height, width in [(1, 1), (2, 5), (7, 7), (112, 16), (9, 13)]:
        data = rng.standard_normal((height, width, channels)).astype(np.float32)
        half = (height + 1) // 2, (width + 1) // 2, channels
        tensor = torch.from_numpy(data.astype(np.float64)).permute(2, 0, 1)
        pool = torch.nn.functional.max_pool2d(tensor.relu(), 3, stride=2, padding=1).permute(1, 2, 0).numpy()
        average = data.mean(axis=(0, 1), dtype=np.float64)[None, None]
        for operator, border, shape, x, expected, arguments in [
            (ops.max_pool, 1, half, np.maximum(data, 0), pool, {"kernel": 3, "stride": 2, "padding": 1}),
            (ops.subsample, 0, half, data, data[::2, ::2], {"stride": 2}),
            (ops.average_pool, 0, (1, 1, channels), data, average, {}),
        ]:
            source, out = operators.take(*x.shape, border=border), operators.take(*shape)
            operators.note(operator, source, out, **arguments)
            operators.expect(source, x, out, expected)
    operators.run()


@each_version
def test_equal_functions_are_written_once_and_names_are_never_shared(version):
    isa = version.compiler.ISAS["avx512"]
    text = version.codegen.generate(version.resnet50.Network(224, 1000, isa).steps, isa)
    defined = re.findall(r"^(?:static )?.*?\b(\w+)\(const float \*", text, re.MULTILINE)
    assert len(defined) > 50 and len(defined) == len(set(defined))
    assert "layer1.1.conv3, layer1.2.conv3" in text
    assert not re.search(r"0x|^#define", text, re.MULTILINE), "an address or a macro in the generated text"


@given(extent=st.integers(1, 4000), most=st.integers(1, 14))
def test_split_covers_everything_once_in_the_fewest_pieces(extent, most):
    spans = V5.ops.split(extent, most)
    sizes = [size for size, start, end in spans for _ in range(start, end, size)]
    assert spans[0][1] == 0 and spans[-1][2] == extent
    assert all(left[2] == right[1] for left, right in pairwise(spans))
    assert sum(sizes) == extent and len(sizes) == V5.ops.pieces(spans) == -(-extent // most)
    assert max(sizes) - min(sizes) <= 1 and max(sizes) <= most


@given(pixels=st.sampled_from([6, 14]), height=st.integers(1, 120), width=st.integers(1, 120))
def test_register_tiles_fit_the_registers_and_waste_little(pixels, height, width):
    rows, columns, tiles = V5.ops.block_shape(pixels, height, width)
    assert 1 <= rows <= height and 1 <= columns <= width and rows * columns <= pixels * tiles
    assert tiles == 1 or (rows, columns) == (height, width)
    assert tiles * -(-height // rows) * -(-width // columns) <= height * -(-width // pixels)  # as few as with one row


def test_tiles_go_on_across_the_ends_of_rows_where_that_saves_some(rng):
    """The last stage of the paper's network with 16 registers: twelve rectangles, or nine tiles; as a 3x3 and a 1x1."""
    assert V5.ops.block_shape(6, 7, 7) == (7, 7, 9)
    assert V5.ops.block_shape(14, 7, 7) == (2, 7, 1)
    for version, threads in (V5, 1), (V6, 3):
        operators = Operators(version, "generic128", threads, l1=1024, l2=6144)  # weights of a 3x3 in three chunks
        for more in {"kernel": 3, "stride": 1}, {"kernel": 3, "stride": 2}, {"kernel": 1, "stride": 1}:
            size = {"height": 7 * more["stride"], "width": 7 * more["stride"]}
            case = {"groups": 3, "panels": 2, "padding": more["kernel"] // 2, "border": 1, "add": True, "relu": True}
            note_convolution(operators, rng, case | size | more)
            assert (operators.steps[-1].out.height, operators.steps[-1].out.width) == (7, 7)
        text = version.codegen.generate(operators.steps, operators.isa)
        assert text.count("_7x7_8(") == 2 * 3 and "_7x7_9(" not in text  # the ninth tile of three steps, and its calls
        operators.run()


@each_version
def test_the_sample_is_what_the_generator_writes(version):
    """For AVX2, on every machine: the compiler is not asked."""
    command = [sys.executable, version.directory / "show.py", "layer1.0.conv2", "--isa", "avx2"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env={"CC": "/no/compiler"}).stdout
    assert shown == (version.directory / "sample.c").read_text()


def test_show_names_the_layers_that_there_are():
    command = [sys.executable, V5.directory / "show.py", "layer9.conv1", "--isa", "avx2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode and done.stderr.startswith("error: no layer layer9.conv1; there are conv1, maxpool, ")


# Every image size and number of classes; instruction sets and compilers are indices into those that are here.
NETWORKS = [
    (V5, 33, 1000, 0, 0, {}),
    (V5, 160, 7, 1, 1, {}),
    (V5, 225, 7, 2, 0, {}),
    (V5, 224, 1000, 0, 1, {}),
    (V6, 65, 7, 1, 0, {"threads": 3}),
    (V6, 97, 1000, 0, 1, {"threads": 2}),
    (V6, 321, 7, 2, 0, {"threads": 5}),
    (V7, 32, 7, 1, 1, {"threads": 7}),
    (V7, 97, 7, 2, 0, {"threads": 3}),
    (V7, 224, 1000, 0, 0, {"threads": 2}),
    (V7, 225, 1000, 1, 1, {"threads": 5}),
    (V7, 321, 1000, 0, 0, {"threads": 1}),
]
EVERY = product((V5, V6, V7), (32, 33, 65, 97, 160, 224, 225, 321), (7, 1000), range(len(HERE)), range(len(COMPILERS)))
NETWORKS += [pytest.param(*case, {}, marks=pytest.mark.exhaustive) for case in EVERY]


@pytest.mark.parametrize(("version", "size", "classes", "isa", "compiler", "options"), NETWORKS)
def test_network(version, size, classes, isa, compiler, options, weights_file, small_weights_file, monkeypatch, rng):
    monkeypatch.setenv("CC", COMPILERS[compiler % len(COMPILERS)])
    weights = weights_file if classes == 1000 else small_weights_file
    model = version.resnet50.ResNet50(weights, size, isa=HERE[isa % len(HERE)], **options)
    check_network(model, weights, rng)


def test_the_network_has_the_multiply_adds_of_the_paper():
    steps = V5.resnet50.Network(224, 1000, V5.compiler.ISAS["generic128"]).steps
    adds = {step.name: step.out.height * step.out.width * (step.weight_size - step.out.channels) for step in steps
            if step.has_weights}  # fmt: skip
    assert sum(adds.values()) == 4_089_184_256 and adds["fc"] == 2048 * 1000  # 4.1e9: He et al. 2016, table 1


@each_version
@given(size=st.integers(1, 300_000))
def test_memory_starts_at_a_cache_line_and_is_zero(version, size):
    memory = version.buffers.aligned(size)
    assert memory.ctypes.data % 64 == 0 and memory.shape == (size,) and not memory.any()


@each_version
def test_the_steps_are_the_network(version, small_weights_file, rng):
    """Run one by one, as a profiler does, they give the same answer: no thread runs into the next short run."""
    model = version.resnet50.ResNet50(small_weights_file, 32, **{} if version is V5 else {"threads": 3})
    logits = model.forward(rng.standard_normal((32, 32, 3)).astype(np.float32))
    names = [step.name for step in model.steps]
    assert names[0] == "conv1" and names[-1] == "fc" and len(names) == len(set(names))
    for _ in range(20):
        model.network.logits.array[...] = np.nan
        for number in range(len(names)):
            model.run(number, number + 1)
        np.testing.assert_array_equal(model.network.logits.array.ravel()[:7], logits)


@each_version
def test_refuses_other_inputs(version, small_weights_file):
    """What exactly is refused is image.py's, which the tests of version 1 to 4 cover."""
    image = np.zeros((40, 40, 3), dtype=np.float32)
    with pytest.raises(ValueError, match=r"image: expected .*\(40, 40, 3\)"):
        version.resnet50.ResNet50(small_weights_file, 40).forward(image[:39])
    for name, value in [("isa", "mmx"), ("image_size", 31)] + [("threads", n) for n in (0, -1, 1.5, "2", True)]:
        if name != "threads" or version is not V5:
            with pytest.raises(ValueError, match=f"{name}: expected"):
                version.resnet50.ResNet50(small_weights_file, **{name: value})
