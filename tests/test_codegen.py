"""Version 5: generated operators and the whole network against float64, and the text of the generated code."""

import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.versions import ROOT
from tests.codegen_support import COMPILERS, HERE, V5, V6, Operators, check_network, own_cache, random_image
from tests.torch_reference import assert_close

__all__ = ["own_cache"]
CONVOLUTION = st.fixed_dictionaries({
    "height": st.integers(1, 19),
    "width": st.integers(1, 33),
    "in_blocks": st.integers(1, 5),
    "panels": st.integers(1, 3),
    "kernel": st.sampled_from([1, 3, 5]),
    "stride": st.sampled_from([1, 2]),
    "padding": st.integers(0, 2),
    "border": st.integers(0, 1),
    "add": st.booleans(),
    "relu": st.booleans(),
})  # fmt: skip


def blocked(array, block):
    """(height, width, channels) -> (channels / block, height, width, block)."""
    return array.reshape(*array.shape[:2], -1, block).transpose(2, 0, 1, 3)


def unblocked(array):
    return array.transpose(1, 2, 0, 3).reshape(*array.shape[1:3], -1)


def note_convolution(operators, rng, case, in_channels, block):
    """Note one convolution on random data; return what checks its result once it has run."""
    module, isa = operators.version.ops, operators.isa
    kernel, stride, padding = case["kernel"], case["stride"], min(case["padding"], case["kernel"] // 2)
    height, width = max(case["height"], kernel), max(case["width"], kernel)
    out_channels = case["panels"] * module.VECTORS * isa.width
    out_size = [(size + 2 * padding - kernel) // stride + 1 for size in (height, width)]
    x = operators.take(height, width, in_channels, border=padding, block=block)
    out = operators.take(*out_size, out_channels, border=case["border"])
    weight = rng.standard_normal((out_channels, kernel, kernel, in_channels)).astype(np.float32)
    bias = rng.standard_normal(out_channels).astype(np.float32)
    options = {"kernel": kernel, "stride": stride, "padding": padding, "add": case["add"], "relu": case["relu"]}
    operators.note(module.conv2d, x, out, weight, bias, **options)
    data = rng.standard_normal((height, width, in_channels)).astype(np.float32)
    residual = rng.standard_normal((*out_size, out_channels)).astype(np.float32)

    def fill():
        x.array[...] = blocked(data, block)
        out.array[...] = blocked(residual, isa.width) if case["add"] else np.nan

    def check(memory):
        arrays = data.transpose(2, 0, 1)[None], weight.transpose(0, 3, 1, 2), bias
        tensors = [torch.from_numpy(array.astype(np.float64)) for array in arrays]
        expected = torch.nn.functional.conv2d(*tensors, stride=stride, padding=padding)[0].numpy().transpose(1, 2, 0)
        expected = expected + residual * case["add"]
        assert_close(unblocked(out.array), np.maximum(expected, 0) if case["relu"] else expected, str(case), 1e-5)
        np.testing.assert_array_equal(unblocked(x.array), data, err_msg="the input was changed")
        for buffer in (x, out):  # nothing but zeros around the pixels
            inside = np.abs(np.nan_to_num(buffer.array)).sum(dtype=np.float64)
            everything = np.abs(memory[buffer.offset : buffer.offset + buffer.size]).sum(dtype=np.float64)
            np.testing.assert_allclose(everything, inside, rtol=1e-9)

    return fill, check


def check_convolutions(version, isa, cases, seed, threads=1):
    rng = np.random.default_rng(seed)
    operators = Operators(version, isa, threads)
    width = operators.isa.width
    noted = [note_convolution(operators, rng, case, case["in_blocks"] * width, width) for case in cases]
    noted.append(note_convolution(operators, rng, cases[0] | {"kernel": 5}, 3, 3))  # like the stem
    operators.check(noted)


@pytest.mark.parametrize("isa", HERE)
@settings(max_examples=4)
@given(cases=st.lists(CONVOLUTION, min_size=6, max_size=9), seed=st.integers(0, 2**32 - 1))
def test_convolutions(isa, cases, seed):
    check_convolutions(V5, isa, cases, seed)


@pytest.mark.parametrize("isa", HERE)
def test_weights_in_several_chunks(isa, rng):
    """More input channels than fit one chunk, with and without a residual, for one pixel and for many."""
    case = {"height": 5, "width": 6, "panels": 2, "padding": 1, "border": 1, "stride": 1, "in_blocks": 0}
    operators = Operators(V5, isa)
    noted = []
    layers = [(1, 3072, 0, 1), (1, 4096, 1, 0), (3, 512, 1, 1), (3, 512, 0, 0), (3, 768, 0, 1)]
    for kernel, channels, add, relu in layers:
        convolution = case | {"kernel": kernel, "add": bool(add), "relu": bool(relu)}
        noted.append(note_convolution(operators, rng, convolution, channels, operators.isa.width))
        assert operators.steps[-1].weight_blocks(operators.isa)[2] > 1
    operators.check(noted)


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("version", [V5, V6], ids=["v5", "v6"])
def test_pooling(version, isa, rng):
    operators = Operators(version, isa, threads=3)
    ops, width = version.ops, operators.isa.width
    checks = []
    for height, row in [(1, 1), (2, 5), (7, 7), (112, 16), (9, 13)]:
        data = rng.standard_normal((height, row, 4 * width)).astype(np.float32)
        half = (height + 1) // 2, (row + 1) // 2, 4 * width
        tensor = torch.from_numpy(data.astype(np.float64)).permute(2, 0, 1)
        pool = torch.nn.functional.max_pool2d(tensor.relu(), 3, stride=2, padding=1).permute(1, 2, 0).numpy()
        average = data.mean(axis=(0, 1), dtype=np.float64)[None, None]
        for operator, border, shape, x, expected, arguments in [
            (ops.max_pool, 1, half, np.maximum(data, 0), pool, {"kernel": 3, "stride": 2, "padding": 1}),
            (ops.subsample, 0, half, data, data[::2, ::2], {"stride": 2}),
            (ops.average_pool, 0, (1, 1, 4 * width), data, average, {}),
        ]:
            source, out = operators.take(*x.shape, border=border), operators.take(*shape)
            operators.note(operator, source, out, **arguments)
            checks.append((source, out, x, expected))
    operators.compile()
    for source, out, x, _ in checks:
        source.array[...], out.array[...] = blocked(x, width), np.nan
    operators.run()
    for _, out, _, expected in checks:
        assert_close(unblocked(out.array), expected, str(out), 1e-5)


def test_equal_functions_are_written_once_and_names_are_never_shared():
    isa = V5.compiler.ISAS["avx512"]
    steps = V5.resnet50.Network(224, 1000, isa).steps
    text = V5.codegen.generate(steps, isa)
    defined = re.findall(r"^(?:static )?.*?\b(\w+)\(const float \*", text, re.MULTILINE)
    assert len(defined) == len(set(defined))
    assert "layer1.1.conv3, layer1.2.conv3" in text
    assert not re.search(r"0x|^#define", text, re.MULTILINE), "an address or a macro in the generated text"


@given(extent=st.integers(1, 4000), most=st.integers(1, 14))
def test_split_covers_everything_once_in_the_fewest_pieces(extent, most):
    groups = V5.ops.split(extent, most)
    sizes = [size for size, start, end in groups for _ in range(start, end, size)]
    assert groups[0][1] == 0 and groups[-1][2] == extent
    assert all(left[2] == right[1] for left, right in pairwise(groups))
    assert sum(sizes) == extent and len(sizes) == V5.ops.pieces(groups) == -(-extent // most)
    assert max(sizes) - min(sizes) <= 1 and max(sizes) <= most


@given(pixels=st.sampled_from([6, 14]), height=st.integers(1, 120), width=st.integers(1, 120))
def test_register_tiles_fit_the_registers_and_waste_little(pixels, height, width):
    rows, columns = V5.ops.tile_shape(pixels, height, width)
    assert 1 <= rows <= height and 1 <= columns <= width and rows * columns <= pixels
    assert -(-height // rows) * -(-width // columns) <= height * -(-width // pixels)  # no worse than tiles of one row


@pytest.mark.parametrize("version", ["v5_codegen", "v6_threads"])
def test_the_sample_is_what_the_generator_writes(version):
    command = [sys.executable, ROOT / version / "show.py", "layer1.0.conv2", "--isa", "avx2", "--no-winograd"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown == (ROOT / version / "sample.c").read_text()


@pytest.mark.parametrize("version", ["v5_codegen", "v6_threads"])
@pytest.mark.parametrize("arguments", [["layer9.conv1", "--isa", "avx2"], ["--image-size", "31"], ["--isa", "mmx"]])
def test_show_refuses_what_it_cannot_show(version, arguments):
    done = subprocess.run([sys.executable, ROOT / version / "show.py", *arguments], capture_output=True, text=True)
    assert done.returncode and "error:" in done.stderr and "Traceback" not in done.stderr and not done.stdout


# A pairwise choice of image size, number of classes, instruction set (index into those that are here) and compiler.
NETWORKS = [
    (32, 7, 0, 0),
    (33, 1000, 1, 1),
    (64, 7, 2, 0),
    (97, 1000, 0, 1),
    (224, 7, 1, 0),
    (225, 7, 2, 1),
    (320, 1000, 0, 0),
]


@pytest.fixture
def directories(weights_dir, small_weights_dir):
    """{number of classes: weights directory}."""
    return {1000: weights_dir, 7: small_weights_dir}


@pytest.mark.parametrize(("size", "classes", "isa", "compiler"), NETWORKS)
def test_network(size, classes, isa, compiler, directories, rng, monkeypatch):
    monkeypatch.setenv("CC", COMPILERS[compiler % len(COMPILERS)])
    model = V5.resnet50.ResNet50(directories[classes], size, isa=HERE[isa % len(HERE)], cache=False)
    check_network(model, directories[classes], random_image(rng, size))


def test_the_network_has_the_multiply_adds_of_the_paper():
    network = V5.resnet50.Network(224, 1000, V5.compiler.ISAS["generic128"], winograd=False)
    assert sum(step.multiply_adds for step in network.steps if step.name != "fc") == 4_087_136_256  # 4.09e9 with fc


def test_the_steps_are_the_network_and_keep_their_memory(small_weights_dir, rng):
    model = V5.resnet50.ResNet50(small_weights_dir, 32)
    image = random_image(rng, 32)
    logits = model.forward(image)
    steps, out = model.steps, model.network.logits.array
    names = [name for name, _, _, _ in steps]
    assert names[0] == "conv1" and names[-1] == "fc" and len(names) == len(set(names))
    assert all(adds >= 0 and moved > 0 for _, _, adds, moved in steps)
    del model
    out[...] = np.nan
    for _, run, _, _ in steps:
        run()
    np.testing.assert_array_equal(out.ravel()[:7], logits)


@pytest.mark.parametrize("version", [V5, V6], ids=["v5", "v6"])
def test_refuses_other_inputs(version, small_weights_dir, rng):
    model = version.resnet50.ResNet50(small_weights_dir, 40)
    image = random_image(rng, 40)
    others = [image.astype(np.float64), image[:39], image[None], image.transpose(2, 0, 1), image[:, ::-1], image[::2]]
    others += [np.asfortranarray(image), image.tolist(), None, image.byteswap().view(image.dtype.newbyteorder())]
    before = model.forward(image)
    for other in others:
        with pytest.raises(ValueError, match="expected"):
            model.forward(other)
    np.testing.assert_array_equal(model.forward(image), before)
    with pytest.raises(ValueError, match=r"isa.*mmx"):
        version.resnet50.ResNet50(small_weights_dir, 32, isa="mmx")
    for size in (31, 0, -224, 224.0, "224", None):
        with pytest.raises(ValueError, match="image_size"):
            version.resnet50.ResNet50(small_weights_dir, image_size=size)


@pytest.mark.exhaustive
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("classes", [7, 1000])
@pytest.mark.parametrize("size", [32, 33, 64, 97, 224, 225, 320])
@pytest.mark.parametrize("version", [V5, V6], ids=["v5", "v6"])
def test_every_network(version, size, classes, isa, compiler, directories, rng, monkeypatch):
    monkeypatch.setenv("CC", compiler)
    model = version.resnet50.ResNet50(directories[classes], size, isa=isa)
    check_network(model, directories[classes], random_image(rng, size))
