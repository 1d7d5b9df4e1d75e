"""Versions 1 to 4 against torchvision's ResNet-50 in float64, stage by stage."""

import numpy as np
import pytest

from common.versions import load_version
from tests.torch_reference import PROBES, assert_close, torch_activations, torch_model

SIZES = {
    "v1_loops": (32, 33),  # Python loops: 3 s a picture of 32x32
    "v2_vectorized": (32, 33, 97, 224, 225),
    "v3_preload": (32, 33, 97, 224, 225),
    "v4_no_alloc": (32, 33, 97, 224, 225),
}
CASES = [(version, size) for version, sizes in SIZES.items() for size in sizes]


@pytest.fixture(scope="session")
def models(state, small_state, weights_dir, small_weights_dir):
    """{number of classes: (weights directory, torch model)}."""
    return {1000: (weights_dir, torch_model(state)), 7: (small_weights_dir, torch_model(small_state))}


def random_image(rng, size):
    return rng.standard_normal((size, size, 3)).astype(np.float32)


def poison(model):
    """Fill buffers that are reused between pictures with NaN, so that nothing stale can pass for a result."""
    if hasattr(model, "plan"):
        model.plan.block.fill(np.nan)


@pytest.mark.parametrize("num_classes", [1000, 7])
@pytest.mark.parametrize(("version", "size"), CASES)
def test_agrees_with_torch(version, size, num_classes, models, rng):
    directory, reference = models[num_classes]
    model = load_version(version).resnet50.ResNet50(directory, image_size=size)
    image = random_image(rng, size)
    expected = torch_activations(reference, image)
    poison(model)
    found = {}
    logits = model.forward(image, probe=found.__setitem__)
    assert tuple(found) == PROBES
    for name in PROBES:
        assert_close(found[name], expected[name], name)
        assert found[name].dtype == np.float32
    assert logits.dtype == np.float32
    assert_close(logits, expected["logits"], "logits")


@pytest.mark.parametrize("version", ["v2_vectorized", "v3_preload", "v4_no_alloc"])
def test_one_object_classifies_many_pictures(version, models, rng):
    directory, reference = models[7]
    model = load_version(version).resnet50.ResNet50(directory, image_size=64)
    images = [random_image(rng, 64) for _ in range(3)]
    kept = [image.copy() for image in images]
    results = [model.forward(image) for image in images]
    for image, copy, logits in zip(images, kept, results):
        assert_close(logits, torch_activations(reference, image)["logits"], "logits")
        np.testing.assert_array_equal(image, copy, err_msg="forward changed its input")


@pytest.mark.parametrize("version", SIZES)
@pytest.mark.parametrize("image_size", [31, 0, -224, 224.0, "224", None])
def test_refuses_image_sizes(version, image_size, small_weights_dir):
    with pytest.raises(ValueError, match="image_size"):
        load_version(version).resnet50.ResNet50(small_weights_dir, image_size=image_size)


@pytest.mark.parametrize("version", SIZES)
def test_refuses_other_inputs(version, small_weights_dir, rng):
    model = load_version(version).resnet50.ResNet50(small_weights_dir, image_size=40)
    image = random_image(rng, 40)
    wrong = [
        image.astype(np.float64),
        image[:39],
        image[None],
        image.transpose(2, 0, 1),
        image[:, ::-1],
        np.asfortranarray(image),
        image.tolist(),
        None,
    ]
    for other in wrong:
        with pytest.raises(ValueError, match="expected"):
            model.forward(other)
