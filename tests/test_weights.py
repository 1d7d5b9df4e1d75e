"""Broken weights: one clear error that names the file and the command that mends it, in every version."""

import json
import os
import pickle
import re
import shutil
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.versions import VERSIONS, load_version

per_example = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def copy(small_weights_dir, tmp_path):
    """A copy of the weights of 7 classes whose files are hard links: replace a file, never write into it."""
    return shutil.copytree(small_weights_dir, tmp_path / "my weights", copy_function=os.link)


def replace(path, content):
    path.unlink()
    path.write_bytes(content)


def edit_manifest(directory, change):
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    replace(path, json.dumps(manifest).encode())


def one_line_error(directory, named, version="v2_vectorized"):
    """Build the model; return its WeightsError's message, which must name a file and a command."""
    module = load_version(version).resnet50
    weights = load_version(version).weights
    with pytest.raises(Exception) as caught:
        module.ResNet50(directory)
    assert type(caught.value).__name__ == weights.WeightsError.__name__, repr(caught.value)
    message = str(caught.value)
    assert "\n" not in message and str(directory / named) in message
    assert f"python common/export_weights.py --force --out '{directory}'" in message
    return message


BREAKS = {
    "missing file": lambda path: path.unlink(),
    "truncated": lambda path: replace(path, path.read_bytes()[:-100]),
    "empty": lambda path: replace(path, b""),
    "wrong shape": lambda path: resave(path, np.zeros((3, 3), np.float32)),
    "wrong type": lambda path: resave(path, np.load(path).astype(np.float64)),
    "wrong numbers": lambda path: resave(path, np.load(path) + 1),
    "pickled": lambda path: replace(path, pickle.dumps("anything")),
    "pickled objects": lambda path: resave(path, np.array([{}], dtype=object)),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


def resave(path, array):
    path.unlink()
    np.save(path, array, allow_pickle=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_tensor(version, broken, copy):
    name = "layer3.2.conv2.weight.npy"
    BREAKS[broken](copy / name)
    one_line_error(copy, name, version)


def test_a_pickle_is_never_run(copy, tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    resave(copy / "bn1.bias.npy", np.array([Harmful()], dtype=object))
    one_line_error(copy, "bn1.bias.npy")
    assert not (tmp_path / "harm").exists()


def test_missing_directory(tmp_path):
    one_line_error(tmp_path / "not there", "manifest.json")


def test_a_manifest_of_a_newer_format(copy):
    edit_manifest(copy, lambda manifest: manifest.update(format=2))
    assert "format 2" in one_line_error(copy, "manifest.json")


CHANGES = {
    "no labels": lambda manifest: manifest.pop("labels"),
    "a label too few": lambda manifest: manifest["labels"].pop(),
    "a tensor too few": lambda manifest: manifest["tensors"].pop("bn1.bias"),
    "a tensor too many": lambda manifest: manifest["tensors"].update(extra={"shape": [1], "sha256": ""}),
    "another shape": lambda manifest: manifest["tensors"]["bn1.bias"].update(shape=[32]),
    "more classes than tensors": lambda manifest: manifest.update(num_classes=8, labels=["x"] * 8),
    "crop above resize": lambda manifest: manifest["preprocessing"].update(crop=300),
    "no deviation": lambda manifest: manifest["preprocessing"].update(std=[1, 0, 1]),
    "unknown interpolation": lambda manifest: manifest["preprocessing"].update(interpolation="magic"),
    "text for numbers": lambda manifest: manifest["preprocessing"].update(mean=["a", "b", "c"]),
    "no number for a size": lambda manifest: manifest["preprocessing"].update(crop=[224]),
    "a fraction for a size": lambda manifest: manifest["preprocessing"].update(crop=32.5),
    "no checksum": lambda manifest: manifest["tensors"]["bn1.bias"].pop("sha256"),
    "no source": lambda manifest: manifest.update(source=None),
    "not an object": lambda manifest: manifest.update(tensors=[1, 2]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_manifest_that_contradicts_itself(change, copy):
    edit_manifest(copy, CHANGES[change])
    one_line_error(copy, "manifest.json")


@per_example
@given(content=st.one_of(st.binary(max_size=60), st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(
        st.sampled_from(["format", "labels", "num_classes", "tensors", "preprocessing"]), inner)),
).map(lambda value: json.dumps(value).encode())))
def test_any_other_manifest(content, copy):
    replace(copy / "manifest.json", content)
    one_line_error(copy, "manifest.json")


@per_example
@given(data=st.data())
def test_one_flipped_bit_is_noticed(data, copy, small_weights_dir):
    name = data.draw(st.sampled_from(["bn1.weight.npy", "layer1.0.conv1.weight.npy", "fc.bias.npy"]))
    content = bytearray((small_weights_dir / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    replace(copy / name, bytes(content))
    module = load_version("v2_vectorized").weights
    with pytest.raises(Exception, match=re.escape(str(copy / name))) as caught:
        module.read_tensor(copy, name.removesuffix(".npy"), module.read_manifest(copy)["tensors"][name[:-4]])
    assert type(caught.value).__name__ == "WeightsError"


def test_the_pool_is_one_block_with_every_tensor(small_weights_dir):
    for version in ("v3_preload", "v4_no_alloc"):
        pool = load_version(version).weights.WeightPool(small_weights_dir)
        views = sorted(pool.tensors.values(), key=lambda view: view.ctypes.data)
        assert pool.block.flags.c_contiguous
        assert views[0].ctypes.data == pool.block.ctypes.data
        for view, following in pairwise(views):
            assert view.ctypes.data + view.nbytes == following.ctypes.data
        assert sum(view.nbytes for view in views) == pool.block.nbytes
        assert np.isfinite(pool.block).all()
