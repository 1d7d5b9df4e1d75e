"""Winograd's convolution in version 7: its matrices, its tiles, the generated operators against float64."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.codegen_support import HERE, V7, Operators, note_convolution
from tests.codegen_support import own_cache as own_cache

ISA = V7.compiler.ISAS["avx512"]
EXTENTS, STRIDES = st.integers(1, 4), st.sampled_from([1, 2])
FRACTIONS = st.fractions(min_value=-9, max_value=9, max_denominator=7)
FIXED = {"kernel": 3, "padding": 1, "add": False, "relu": True}
CONVOLUTION = st.fixed_dictionaries({
    "height": st.integers(1, 19), "width": st.integers(1, 33), "groups": st.integers(1, 5), "panels": st.integers(1, 3),
    "border": st.integers(0, 1), "size": st.tuples(EXTENTS, EXTENTS), "stride": STRIDES,
})  # fmt: skip


@given(data=st.data(), extent=EXTENTS, stride=STRIDES)
def test_the_matrices_convolve_exactly(data, extent, stride):
    """In rational numbers there is no rounding: the identity holds to the last digit."""
    at, g, bt = (np.array(matrix, dtype=object) for matrix in V7.winograd.matrices(extent, stride))
    weight = np.array(data.draw(st.lists(FRACTIONS, min_size=3, max_size=3)), dtype=object)
    side, _ = V7.winograd.sides((extent, extent), stride)
    inputs = np.array(data.draw(st.lists(FRACTIONS, min_size=side, max_size=side)), dtype=object)
    expected = [sum((weight[k] * inputs[stride * i + k] for k in range(3)), Fraction(0)) for i in range(extent)]
    assert (at @ ((g @ weight) * (bt @ inputs))).tolist() == expected


@pytest.mark.parametrize("isa", HERE)
@settings(max_examples=4)
@given(cases=st.lists(CONVOLUTION, min_size=5, max_size=8), threads=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_convolutions(isa, cases, threads, seed):
    rng, operators = np.random.default_rng(seed), Operators(V7, isa, threads)
    for case in cases:
        note_convolution(operators, rng, FIXED | case)
    operators.run()


@pytest.mark.parametrize("isa", HERE)
def test_weights_that_a_1x1_convolution_would_read_in_chunks(isa, rng):
    """512 channels, as in layer4 of larger pictures: a position's weights are more than a first-level cache holds."""
    operators = Operators(V7, isa, l1=16 * 1024)
    case = {"height": 11, "width": 11, "groups": 512 // operators.isa.width, "panels": 2, "border": 0}
    note_convolution(operators, rng, FIXED | case | {"size": (2, 2), "stride": 1})
    operators.run()


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize(("spare", "strips"), [(-1, 7), (0, 1)])
def test_products_in_strips_that_fit_the_second_level_cache(isa, spare, strips, rng):
    """28x28 outputs with stride 2: 49 tiles of 81 products for each channel, in half of the cache or not."""
    width = V7.compiler.ISAS[isa].width
    operators = Operators(V7, isa, l2=2 * 4 * 81 * 49 * 2 * width + spare)
    case = {"height": 56, "width": 56, "groups": 4, "panels": 64 // width, "border": 0}
    note_convolution(operators, rng, FIXED | case | {"size": (4, 4), "stride": 2})
    assert operators.steps[-1].x.height == 81 * strips
    operators.run()


def buffers(isa, height, width, channels, stride):
    """Input and output of a convolution with an output of height x width."""
    shapes = (stride * height, stride * width, channels), (height, width, channels)
    return (V7.buffers.Buffer("", shape, isa.width, border=1) for shape in shapes)


@pytest.mark.parametrize(
    ("extent", "channels", "stride", "avx512", "avx2", "generic128"),
    [
        (56, 64, 1, (4, 4), (4, 4), (4, 4)),
        (28, 128, 1, (4, 4), (4, 4), (4, 4)),
        (14, 256, 1, (3, 3), (3, 3), (3, 3)),
        (7, 512, 1, (1, 2), (2, 2), (2, 4)),
        (28, 128, 2, (4, 4), (4, 4), (4, 4)),
        (14, 256, 2, (2, 2), (2, 2), (2, 2)),
        (7, 512, 2, None, None, (2, 4)),
        (16, 256, 1, (2, 4), (4, 4), (4, 4)),
    ],
)
def test_tiles_of_the_paper_network(extent, channels, stride, avx512, avx2, generic128):
    """What the estimates choose; the article of version 7 says where measuring found another as good or better."""
    for name, size in {"avx512": avx512, "avx2": avx2, "generic128": generic128}.items():
        isa = V7.compiler.ISAS[name]
        assert V7.winograd.tile_size(isa, *buffers(isa, extent, extent, channels, stride), stride) == size, name


@given(
    height=st.integers(1, 300), width=st.integers(1, 300), channels=st.sampled_from([64, 128, 256, 512]),
    stride=STRIDES, l2=st.integers(128, 4096),
)  # fmt: skip
def test_chosen_tiles_cover_the_output_and_fit(height, width, channels, stride, l2):
    isa = ISA._replace(l2=1024 * l2)
    x, out = buffers(isa, height, width, channels, stride)
    assume(size := V7.winograd.tile_size(isa, x, out, stride))
    positions = np.prod(V7.winograd.sides(size, stride))
    rows, columns = V7.winograd.tiled_shape(isa, out, size, stride)
    assert rows % positions == 0 and columns % -(-width // size[1]) == 0
    assert rows * columns // positions == -(-height // size[0]) * -(-width // size[1])
    products = 4 * positions * columns * V7.ops.VECTORS * ISA.width
    assert products <= isa.l2 // 2 and products <= V7.winograd.PRODUCT_BYTES  # which lie on the stack


@given(extent=st.integers(1, 500), most=EXTENTS)
def test_edges_cover_everything_once(extent, most):
    spans = V7.winograd.edges(extent, most)
    covered = [tile * most + n for outputs, first, end in spans for tile in range(first, end) for n in range(outputs)]
    assert covered == list(range(extent))


def test_it_multiplies_less():
    """Fifteen layers of 56*56*64*64*9: six in 196*64*64 for each of 36 positions, five in 25*256*256 for each of 25,
    two in 28*512*512 for each of 12; two with stride 2, in 49*128*128 for each of 81 and 49*256*256 for each of 25.
    """
    directly, found = 0, 0
    for step in V7.resnet50.Network(224, 1000, ISA).steps:
        if step.operator is V7.winograd.winograd_conv2d:
            tiles = step.x.height * step.x.width // step.taps
            found += tiles * (step.weight_size - step.out.channels)
            directly += step.out.height * step.out.width * step.x.channels * step.out.channels * 9
    assert directly == 15 * 56**2 * 64**2 * 9
    assert found == (
        6 * 36 * 196 * 64**2 + 5 * 25 * 25 * 256**2 + 2 * 12 * 28 * 512**2 + 81 * 49 * 128**2 + 25 * 49 * 256**2
    )
