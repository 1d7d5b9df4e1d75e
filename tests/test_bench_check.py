"""The benchmark's ground truth: the float64 reference, the check against it, and what the network costs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import network
from bench.allocations import counted_allocations
from bench.check import TOLERANCE, WrongOutput, check_logits
from bench.reference import reference_activations, reference_logits
from tests.torch_reference import torch_activations, torch_model


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (75, 33)])
def test_reference_equals_torchvision_in_float64(shape, small_state, small_weights_dir, rng):
    image = rng.standard_normal((*shape, 3)).astype(np.float32)
    expected = torch_activations(torch_model(small_state), image)
    found = reference_activations(small_weights_dir, image)
    assert list(found) == ["stem", "layer1", "layer2", "layer3", "layer4", "avgpool", "logits"]
    for name, activation in found.items():
        assert activation.shape == expected[name].shape and activation.dtype == np.float64
        assert np.isfinite(activation).all()
        assert np.abs(activation - expected[name]).max() <= 1e-12 * np.abs(expected[name]).max(), name


def test_reference_refuses_other_shapes(small_weights_dir):
    with pytest.raises(ValueError, match=r"\(height, width, 3\), got \(32, 32\)"):
        reference_logits(small_weights_dir, np.zeros((32, 32)))


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 50), size=st.floats(1e-3, 1e3))
def test_check_accepts_what_is_within_the_tolerance_and_nothing_else(seed, classes, size):
    rng = np.random.default_rng(seed)
    right = rng.standard_normal(classes) * size
    allowed, place = TOLERANCE * np.abs(right).max(), rng.integers(classes)
    close, off = right.copy(), right.copy()
    close[place] += 0.9 * allowed
    off[place] -= 1.1 * allowed
    assert check_logits(close, right) == pytest.approx(0.9 * allowed)
    with pytest.raises(WrongOutput, match="off by"):
        check_logits(off, right)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@given(place=st.integers(0, 6))
def test_check_rejects_what_is_not_finite(bad, place):
    right = np.arange(7.0)
    wrong = right.copy()
    wrong[place] = bad
    with pytest.raises(WrongOutput, match="1 of 7 logits are not finite"):
        check_logits(wrong, right)


@pytest.mark.parametrize("wrong", [None, [0.0] * 7, np.arange(7), np.zeros((1, 7)), np.zeros(6), np.zeros(7, complex)])
def test_check_rejects_other_types_and_shapes(wrong):
    with pytest.raises(WrongOutput, match="expected floats of shape"):
        check_logits(wrong, np.arange(7.0))


def test_network_has_the_published_cost():
    found = network.layers(224)
    assert len(found) == 54
    assert sum(layer.multiply_adds for layer in found) == 4_089_184_256  # 4.1 G: He et al. 2015, table 1, less pooling
    batch_norms_and_bias = 2 * 26_560 + 1000
    assert sum(layer.weights for layer in found) + batch_norms_and_bias == 25_557_032  # torchvision's parameters


@given(size=st.integers(32, 300))
def test_network_halves_as_convolutions_and_pooling_do(size):
    for kernel in (1, 3, 7):
        assert network.halved(size) == (size + 2 * (kernel // 2) - kernel) // 2 + 1


def test_network_shapes_are_those_of_the_weights(small_state):
    found = {layer.name: layer for layer in network.layers(64, num_classes=7)}
    convolutions = {name.removesuffix(".weight"): t.shape for name, t in small_state.items() if t.ndim == 4}
    assert set(found) == {*convolutions, "fc"}
    for name, (out_channels, in_channels, kernel, _) in convolutions.items():
        layer = found[name]
        assert (layer.out_shape[2], layer.in_shape[2], layer.kernel) == (out_channels, in_channels, kernel)


@given(size=st.integers(32, 448))
def test_progress_rises_to_one(size):
    shares = network.progress(size)
    assert list(shares) == ["stem", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert sorted(shares.values()) == list(shares.values()) and shares["fc"] == 1.0


def test_allocations_are_counted_and_given_back():
    kept = []
    with counted_allocations() as count:
        a = np.zeros((100, 10), np.float32)
        a += 1
        kept.append(a[5:] * 2)
        a.resize((200, 10), refcheck=False)
    assert count.arrays == 3
    assert 0 <= count.bytes - (4000 + 3800 + 8000) < 100  # the rest: the numbers 1 and 2 as arrays
    later = np.ones(1000)
    assert count.arrays == 3 and later.sum() == 1000
    assert kept[0].sum() == 1900
    with counted_allocations() as nothing:
        np.add(later, later, out=later)
    assert nothing.arrays == nothing.bytes == 0
