"""Versions 1 to 4 against torchvision's ResNet-50 in float64, stage by stage."""

from functools import cache

import numpy as np
import pytest

from common.versions import load_version
from tests.conftest import SEED
from tests.torch_reference import PROBES, assert_close, torch_activations, torch_model

SIZES = (32, 33, 65, 97, 160, 224, 225, 321)
VERSIONS = ("v1_loops", "v2_vectorized", "v3_preload", "v4_no_alloc")
CASES = [(version, size) for version in VERSIONS[1:] for size in SIZES]
CASES += [("v1_loops", 33)]  # Python loops: 3 s a picture


@pytest.fixture(scope="module")
def expected(state, small_state):
    """A function: (image size, number of classes) -> (picture, the reference's activations of it)."""
    models = {1000: torch_model(state), 7: torch_model(small_state)}

    @cache
    def activations(size, num_classes):
        image = np.random.default_rng([SEED, size]).standard_normal((size, size, 3)).astype(np.float32)
        return image, torch_activations(models[num_classes], image)

    return activations


def build(version, weights, size):
    """Build a network. Buffers that it keeps between pictures hold NaN, so that nothing stale can pass for a result."""
    model = load_version(version).resnet50.ResNet50(weights, image_size=size)
    if hasattr(model, "plan"):
        model.plan.memory.fill(np.nan)
    return model


@pytest.mark.parametrize("num_classes", [1000, 7])
@pytest.mark.parametrize(("version", "size"), CASES)
def test_agrees_with_torch(version, size, num_classes, expected, weights_file, small_weights_file):
    model = build(version, weights_file if num_classes == 1000 else small_weights_file, size)
    image, right = expected(size, num_classes)
    found = {}
    logits = model.forward(image, probe=found.__setitem__)
    assert tuple(found) == PROBES
    for name in PROBES:
        assert_close(found[name], right[name], name)
        assert found[name].dtype == np.float32
    assert logits.dtype == np.float32
    assert_close(logits, right["logits"], "logits")


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_one_object_classifies_many_pictures(version, expected, small_weights_file, rng):
    image, right = expected(65, 7)
    kept, model, seen = image.copy(), build(version, small_weights_file, 65), {}
    first = model.forward(image, probe=seen.__setitem__)
    copies = {name: activation.copy() for name, activation in seen.items()}
    other = model.forward(rng.standard_normal((65, 65, 3)).astype(np.float32))
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(image, kept, err_msg="forward changed its input")
    for name, activation in seen.items():
        np.testing.assert_array_equal(activation, copies[name], err_msg="a result is no array of its own")
    assert_close(first, right["logits"], "logits")


@pytest.mark.parametrize("version", VERSIONS)
def test_refuses_other_sizes_and_inputs(version, small_weights_file, rng):
    for size in (31, 0, -224, 224.0, "224", None):
        with pytest.raises(ValueError, match="image_size"):
            build(version, small_weights_file, size)
    model = build(version, small_weights_file, 40)
    image = rng.standard_normal((40, 40, 3)).astype(np.float32)
    for other in (image.astype(np.float64), image[:39], image[None], image.transpose(2, 0, 1), image[:, ::-1],
                  np.asfortranarray(image), image.tolist(), None):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            model.forward(other)
