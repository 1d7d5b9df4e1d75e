"""Each operator of versions 1 to 4 alone against torch.nn.functional, on shapes that hypothesis draws."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from common.versions import load_version
from tests.conftest import SEED

OPS = {name: load_version(name).ops for name in ("v1_loops", "v2_vectorized", "v3_preload", "v4_no_alloc")}
each_version = pytest.mark.parametrize("version", OPS)
EPSILON = 1e-5


def nan(*shape):
    return np.full(shape, np.nan, dtype=np.float32)


def conv2d(version, x, weight, stride, padding):
    """x (h, w, in), weight (out, kernel_h, kernel_w, in)."""
    if version == "v1_loops":
        return np.array(OPS[version].conv2d(x.tolist(), weight.tolist(), stride, padding))
    if version in ("v2_vectorized", "v3_preload"):
        return OPS[version].conv2d(x, weight, stride, padding)
    (height, width, channels), (out_channels, kernel_h, kernel_w, _) = x.shape, weight.shape
    out_h = (height + 2 * padding - kernel_h) // stride + 1
    out_w = (width + 2 * padding - kernel_w) // stride + 1
    padded = nan(height + 2 * padding, width + 2 * padding, channels) if padding else None
    is_matrix = kernel_h == kernel_w == stride == 1 and not padding
    columns = None if is_matrix else nan(out_h * out_w, kernel_h * kernel_w * channels)
    out = nan(out_h, out_w, out_channels)
    OPS[version].conv2d(x, weight, stride, padding, padded, columns, out)
    return out


def batch_norm(version, x, gamma, beta, mean, variance):
    if version == "v1_loops":
        arguments = (array.tolist() for array in (x, gamma, beta, mean, variance))
        return np.array(OPS[version].batch_norm(*arguments))
    if version == "v2_vectorized":
        return OPS[version].batch_norm(x, gamma, beta, mean, variance)
    scale = gamma / np.sqrt(variance + np.float32(EPSILON))
    # From version 3 on, the convolution before it multiplies by the scale.
    return run(version, "batch_norm", x * scale, beta - mean * scale, out=nan(*x.shape))


def run(version, operator, *arguments, out):
    """Call an operator in the way of its version; `out` is used by version 4 alone."""
    function = getattr(OPS[version], operator)
    if version == "v1_loops":
        arguments = [a.tolist() if isinstance(a, np.ndarray) else a for a in arguments]
        return np.array(function(*arguments))
    if version == "v4_no_alloc":
        function(*arguments, out)
        return out
    return function(*arguments)


def chw(x):
    return torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.float64))


def hwc(tensor):
    return tensor[0].numpy().transpose(1, 2, 0)


@st.composite
def activations(draw, smallest=1):
    """A float32 array (height, width, channels) of random numbers, rarely square."""
    shape = draw(st.integers(smallest, 12)), draw(st.integers(smallest, 12)), draw(st.integers(1, 9))
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng([SEED, seed]).standard_normal(shape).astype(np.float32)


@st.composite
def convolutions(draw):
    kernel_h, kernel_w = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    x = draw(activations(smallest=max(1, max(kernel_h, kernel_w) - 2 * padding)))
    out_channels = draw(st.integers(1, 9))
    weight = np.random.default_rng([SEED, out_channels]).standard_normal((out_channels, kernel_h, kernel_w, x.shape[2]))
    return x, weight.astype(np.float32), stride, padding


@each_version
@settings(max_examples=60)
@given(case=convolutions())
def test_conv2d(version, case):
    x, weight, stride, padding = case
    kernel = torch.from_numpy(weight.transpose(0, 3, 1, 2).astype(np.float64))
    expected = hwc(F.conv2d(chw(x), kernel, stride=stride, padding=padding))
    magnitude = hwc(F.conv2d(chw(abs(x)), abs(kernel), stride=stride, padding=padding)).max()
    found = conv2d(version, x, weight, stride, padding)
    assert found.shape == expected.shape
    assert np.isfinite(found).all() and np.abs(found - expected).max() <= 1e-6 * magnitude


@each_version
@settings(max_examples=30)
@given(x=activations(), seed=st.integers(0, 2**32 - 1))
def test_batch_norm(version, x, seed):
    rng = np.random.default_rng([SEED, seed])
    gamma, beta, mean = rng.standard_normal((3, x.shape[2])).astype(np.float32)
    variance = rng.uniform(0.1, 2, x.shape[2]).astype(np.float32)
    mean64, variance64, gamma64, beta64 = (torch.from_numpy(a).double() for a in (mean, variance, gamma, beta))
    expected = hwc(F.batch_norm(chw(x), mean64, variance64, gamma64, beta64, eps=EPSILON))
    found = batch_norm(version, x, gamma, beta, mean, variance)
    magnitude = ((abs(x) + abs(mean)) * abs(gamma) / np.sqrt(variance) + abs(beta)).max()  # sums may cancel
    assert found.shape == expected.shape
    assert np.isfinite(found).all() and np.abs(found - expected).max() <= 1e-6 * magnitude


@each_version
@settings(max_examples=30)
@given(x=activations())
def test_relu(version, x):
    found = run(version, "relu", x, out=nan(*x.shape))
    np.testing.assert_array_equal(found, hwc(F.relu(chw(x))))


@each_version
@settings(max_examples=30)
@given(x=activations(), seed=st.integers(0, 2**32 - 1))
def test_add(version, x, seed):
    y = np.random.default_rng([SEED, seed]).standard_normal(x.shape).astype(np.float32)
    found = run(version, "add", x, y, out=nan(*x.shape))
    np.testing.assert_allclose(found, x.astype(np.float64) + y, rtol=1e-6)


@each_version
@settings(max_examples=60)
@given(data=st.data(), kernel=st.integers(2, 4), stride=st.integers(1, 3))
def test_max_pool(version, data, kernel, stride):
    padding = data.draw(st.integers(1, kernel // 2))  # what torch allows, and ResNet-50's always has some
    x = data.draw(activations(smallest=max(1, kernel - 2 * padding))) - 3  # negative: a zero border would win
    expected = hwc(F.max_pool2d(chw(x), kernel, stride, padding))
    if version == "v4_no_alloc":
        padded = nan(x.shape[0] + 2 * padding, x.shape[1] + 2 * padding, x.shape[2])
        found = run(version, "max_pool", x, kernel, stride, padding, padded, out=nan(*expected.shape))
    else:
        found = run(version, "max_pool", x, kernel, stride, padding, out=None)
    np.testing.assert_array_equal(found, expected)


@each_version
@settings(max_examples=30)
@given(x=activations())
def test_average_pool(version, x):
    found = run(version, "average_pool", x, out=nan(x.shape[2]))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, x.mean(axis=(0, 1), dtype=np.float64), rtol=1e-5, atol=1e-6)


@each_version
@settings(max_examples=30)
@given(in_features=st.integers(1, 40), out_features=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_fully_connected(version, in_features, out_features, seed):
    rng = np.random.default_rng([SEED, seed])
    x, weight, bias = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in (in_features, (out_features, in_features), out_features)
    )
    expected = F.linear(*(torch.from_numpy(a).double() for a in (x, weight, bias))).numpy()
    found = run(version, "fully_connected", x, weight, bias, out=nan(out_features))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@each_version
@settings(max_examples=50)
@given(logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30).map(lambda x: np.array(x, np.float32)))
def test_softmax(version, logits):
    found = np.array(OPS[version].softmax(logits.tolist() if version == "v1_loops" else logits))
    expected = torch.softmax(torch.from_numpy(logits).double(), 0).numpy()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
