"""Broken weights: one clear error that names the file and the command that mends it, in every version."""

import json
import shlex
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.versions import VERSIONS, load_version

version = cache(load_version)


@pytest.fixture
def broken(small_weights_file, tmp_path):
    """broken(change) writes the weights of 7 classes anew with a changed header, in a file whose name needs quotes.

    `change` gets the header, which it may edit, and the manifest in it. The tensors become zeros, a hole in the file.
    """

    def write(change):
        with open(small_weights_file, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        metadata = header["__metadata__"]
        manifest = json.loads(metadata["manifest"])
        change(header, manifest)
        metadata["manifest"] = json.dumps(manifest)
        content = json.dumps(header).encode()
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        path = tmp_path / "my weights.safetensors"
        with open(path, "wb") as file:
            file.write(len(content).to_bytes(8, "little") + content)
            file.truncate(file.tell() + end)
        return path

    return write


def error(path, call):
    """Return the message of the WeightsError that `call` must raise: one line, with the file and a command."""
    with pytest.raises(Exception) as caught:
        call(path)
    message = str(caught.value)
    assert type(caught.value).__name__ == "WeightsError" and "\n" not in message, repr(caught.value)
    assert str(path) in message and f"python common/export_weights.py --out {shlex.quote(str(path))}" in message
    return message


CHANGES = {
    "a tensor by another name": lambda header, manifest: header.update(extra=header.pop("layer3.2.conv2.weight")),
    "another shape": lambda header, manifest: header["conv1.weight"]["shape"].reverse(),
    "another type": lambda header, manifest: header["bn1.bias"].update(dtype="I32"),
    "no metadata": lambda header, manifest: header.pop("__metadata__"),
    "another format": lambda header, manifest: manifest.update(format=3),
    "no labels": lambda header, manifest: manifest.pop("labels"),
    "a label too few": lambda header, manifest: manifest["labels"].pop(),
    "labels that are a number": lambda header, manifest: manifest.update(labels=7),
    "more classes than rows": lambda header, manifest: manifest.update(num_classes=8, labels=["x"] * 8),
}
CONTENTS = {"empty": b"", "text": b"These are no weights.\n" * 9}


@pytest.mark.parametrize("name", VERSIONS)
class TestEveryVersion:
    @pytest.mark.parametrize("change", CHANGES)
    def test_a_header_that_does_not_fit(self, name, change, broken):
        message = error(broken(CHANGES[change]), version(name).resnet50.ResNet50)
        assert change != "another format" or "format 3" in message

    @pytest.mark.parametrize("content", CONTENTS)
    def test_another_file(self, name, content, tmp_path):
        (tmp_path / "it's").write_bytes(CONTENTS[content])
        error(tmp_path / "it's", version(name).resnet50.ResNet50)

    def test_truncated_missing_and_a_directory(self, name, broken, tmp_path):
        path = broken(lambda header, manifest: None)
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size - 1)
        error(path, version(name).resnet50.ResNet50)
        error(tmp_path / "absent", version(name).resnet50.ResNet50)
        (tmp_path / "my net.pth").touch()
        for path in (tmp_path, tmp_path / "my net.pth"):
            with pytest.raises(Exception, match=r" is no export: python common/export_weights\.py"):
                version(name).resnet50.ResNet50(path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_of_the_header_is_an_error_or_does_no_harm(data, broken):
    path = broken(lambda header, manifest: None)
    weights = version("v1_loops").weights
    with open(path, "r+b") as file:
        place = data.draw(st.integers(0, 7 + int.from_bytes(file.read(8), "little")))
        file.seek(place)
        byte = file.read(1)[0] ^ data.draw(st.integers(1, 255))
        file.seek(place)
        file.write(bytes([byte]))
    try:
        manifest = weights.read_manifest(path)
    except weights.WeightsError:
        error(path, weights.read_manifest)
    else:
        assert manifest["format"] == 2 and manifest["num_classes"] == len(manifest["labels"]) == 7


def test_every_tensor_as_it_was_exported(small_state, small_weights_file):
    tensors = version("v1_loops").weights.WeightFile(small_weights_file)
    for name, array in small_state.items():
        np.testing.assert_array_equal(tensors[name], array.transpose(0, 2, 3, 1) if array.ndim == 4 else array)


@pytest.mark.parametrize("name", ["v3_preload", "v4_no_alloc"])
def test_the_pool_is_one_array_with_every_tensor(name, small_weights_file):
    pool = version(name).weights.WeightPool(small_weights_file)
    views = sorted(pool.tensors.values(), key=lambda view: view.ctypes.data)
    assert pool.array.flags.c_contiguous and views[0].ctypes.data == pool.array.ctypes.data
    for view, following in pairwise(views):
        assert view.ctypes.data + view.nbytes == following.ctypes.data
    assert sum(view.nbytes for view in views) == pool.array.nbytes and np.isfinite(pool.array).all()
