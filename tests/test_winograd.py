"""Winograd's convolution in versions 5 and 6: its matrices, its tiles, the generated operators against float64."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codegen_support import HERE, V5, V6, Operators, check_network, own_cache, random_image
from tests.test_codegen import blocked, unblocked
from tests.torch_reference import assert_close

__all__ = ["own_cache"]
VERSIONS = pytest.mark.parametrize("version", [V5, V6], ids=["v5", "v6"])
SIZES = st.sampled_from([2, 3, 4])
FRACTIONS = st.fractions(min_value=-9, max_value=9, max_denominator=7)
CASE = st.fixed_dictionaries({
    "size": SIZES,
    "height": st.integers(1, 19),
    "width": st.integers(1, 33),
    "in_blocks": st.integers(1, 5),
    "panels": st.integers(1, 3),
    "border": st.integers(0, 1),
})  # fmt: skip


@given(data=st.data(), size=SIZES)
def test_the_matrices_convolve_exactly(data, size):
    """In rational numbers there is no rounding: the identity holds to the last digit."""
    at, g, bt = (np.array(matrix, dtype=object) for matrix in V5.winograd.matrices(size))
    weight = np.array(data.draw(st.lists(FRACTIONS, min_size=3, max_size=3)), dtype=object)
    inputs = np.array(data.draw(st.lists(FRACTIONS, min_size=size + 2, max_size=size + 2)), dtype=object)
    expected = [sum((weight[k] * inputs[i + k] for k in range(3)), Fraction(0)) for i in range(size)]
    assert (at @ ((g @ weight) * (bt @ inputs))).tolist() == expected


def note_convolution(operators, rng, case):
    """Note the two steps of one convolution on random data; return what fills its buffers and what checks it."""
    winograd, isa = operators.version.winograd, operators.isa
    size, height, width = case["size"], case["height"], case["width"]
    in_channels, out_channels = case["in_blocks"] * isa.width, case["panels"] * V5.ops.VECTORS * isa.width
    x = operators.take(height, width, in_channels, border=1)
    out = operators.take(height, width, out_channels, border=case["border"])
    tiles = operators.take(*winograd.tiled_shape(isa, x, out, size), in_channels)
    weight = rng.standard_normal((out_channels, 3, 3, in_channels)).astype(np.float32)
    bias = rng.standard_normal(out_channels).astype(np.float32)
    operators.note(winograd.winograd_input, x, tiles, size=size)
    operators.note(winograd.winograd_conv2d, tiles, out, weight, bias, size=size)
    data = rng.standard_normal((height, width, in_channels)).astype(np.float32)

    def fill():
        x.array[...], tiles.array[...], out.array[...] = blocked(data, isa.width), np.nan, np.nan

    def check(memory):
        arrays = data.transpose(2, 0, 1)[None], weight.transpose(0, 3, 1, 2), bias
        tensors = [torch.from_numpy(array.astype(np.float64)) for array in arrays]
        expected = torch.nn.functional.conv2d(*tensors, padding=1).relu()[0].numpy().transpose(1, 2, 0)
        assert_close(unblocked(out.array), expected, str(case), 3e-5)
        np.testing.assert_array_equal(unblocked(x.array), data, err_msg="the input was changed")
        everything = memory[out.offset : out.offset + out.size]
        assert np.isfinite(everything).all()
        assert np.count_nonzero(everything) == np.count_nonzero(out.array), "the border was changed"

    return fill, check


@VERSIONS
@pytest.mark.parametrize("isa", HERE)
@settings(max_examples=3)
@given(cases=st.lists(CASE, min_size=5, max_size=8), threads=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_convolutions(version, isa, cases, threads, seed):
    rng = np.random.default_rng(seed)
    operators = Operators(version, isa, threads)
    noted = [note_convolution(operators, rng, case) for case in cases]
    operators.check(noted)


def buffers(height, width, in_channels, out_channels):
    return (V5.buffers.Buffer("", (height, width, channels), 16, border=1) for channels in (in_channels, out_channels))


@pytest.mark.parametrize(("extent", "channels", "size"), [(56, 64, 4), (28, 128, 4), (14, 256, 3), (7, 512, None)])
def test_tiles_of_the_paper_network(extent, channels, size):
    """What measuring every size in turn chose, too: the article of version 5."""
    x, out = buffers(extent, extent, channels, channels)
    assert V5.winograd.tile_size(V5.compiler.ISAS["avx512"], x, out) == size


@given(height=st.integers(1, 300), width=st.integers(1, 300), channels=st.sampled_from([64, 128, 256, 512]))
def test_chosen_tiles_cover_the_output_and_fit(height, width, channels):
    isa = V5.compiler.ISAS["avx512"]
    x, out = buffers(height, width, channels, channels)
    size = V5.winograd.tile_size(isa, x, out)
    if size is None:
        return
    positions = (size + 2) ** 2
    rows, columns = V5.winograd.tiled_shape(isa, x, out, size)
    assert rows % positions == 0 and columns % -(-width // size) == 0
    assert rows * columns // positions == -(-height // size) * -(-width // size)
    assert 4 * positions * columns * V5.ops.VECTORS * isa.width <= V5.winograd.PRODUCT_BYTES  # it lies on the stack


@given(extent=st.integers(1, 500), size=SIZES)
def test_edges_cover_everything_once(extent, size):
    groups = V5.winograd.edges(extent, size)
    covered = [tile * size + n for outputs, first, end in groups for tile in range(first, end) for n in range(outputs)]
    assert covered == list(range(extent))


@VERSIONS
@pytest.mark.parametrize("size", [64, 97])
def test_it_can_be_switched_off(version, size, small_weights_dir, rng):
    image = random_image(rng, size)
    with_it = version.resnet50.ResNet50(small_weights_dir, size)
    without = version.resnet50.ResNet50(small_weights_dir, size, winograd=False)
    used, unused = ([step.operator for step in model.network.steps] for model in (with_it, without))
    assert version.winograd.winograd_conv2d in used and version.winograd.winograd_conv2d not in unused
    check_network(without, small_weights_dir, image)
    assert_close(with_it.forward(image), without.forward(image), "logits")


def test_it_multiplies_less():
    """Eleven layers of 56*56*64*64*9: six in 196*64*64 for each of 36 positions, five in 25*256*256 for each of 25."""
    isa = V5.compiler.ISAS["avx512"]
    counts = [sum(step.multiply_adds for step in V5.resnet50.Network(224, 1000, isa, winograd).steps)
              for winograd in (True, False)]  # fmt: skip
    assert counts[1] - counts[0] == 11 * 56**2 * 64**2 * 9 - 6 * 36 * 196 * 64**2 - 5 * 25 * 25 * 256**2
