"""The reader of PyTorch's files: what torch.save writes is what torch.load reads, and no file does any harm."""

import io
import pickle
import sys
import time
import tracemalloc
import zipfile
from argparse import Namespace
from collections import OrderedDict
from encodings import cp437, raw_unicode_escape  # noqa: F401 - loaded now, and not while we watch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import architecture
from common.architecture import tensor_shapes
from common.checkpoint import checkpoint
from common.pth import load_pth
from common.synthetic import synthetic
from common.weights_file import ExportError

SHARED = {"suppress_health_check": list(HealthCheck)}
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
          torch.int8, torch.uint8, torch.bool]  # fmt: skip
MIB = 1 << 20
events = None  # Python's audit events while a list
sys.addaudithook(lambda event, _: None if events is None else events.append(event))


def equal(ours, theirs):
    """Compare what two readers made of a file: containers, and tensors number by number; NaN is NaN."""
    if isinstance(theirs, torch.Tensor):
        return np.array_equal(np.asarray(ours), theirs.detach().float().numpy(), equal_nan=True)
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(equal(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return ours == theirs or isinstance(theirs, Namespace)


@st.composite
def views(draw, storage):
    """A view of a flat tensor: any offset, shape and strides that stay inside, strides of 0 too."""
    offset = draw(st.integers(0, len(storage) - 1))
    left, shape, strides = len(storage) - 1 - offset, [], []
    for _ in range(draw(st.integers(0, 4))):
        strides.append(draw(st.integers(0, 9)))
        shape.append(draw(st.integers(0, min(4, left // strides[-1] + 1) if strides[-1] else 4)))
        left -= max(shape[-1] - 1, 0) * strides[-1]
    return storage.as_strided(shape, strides, offset)


@settings(max_examples=60, **SHARED)
@given(data=st.data(), dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3))
def test_views_and_shared_storages(data, dtypes, tmp_path):
    numbers, tensors = torch.tensor([*data.draw(st.binary(min_size=240, max_size=240))], dtype=torch.uint8), []
    for dtype in dtypes:
        storage = numbers > 127 if dtype is torch.bool else numbers.clone().view(dtype)
        tensors += [data.draw(views(storage)) for _ in range(3)]
    content = {"a": tensors, "b": {0: tensors[0], "c": (1, -(2**40), 0.5, None, True, "é")}, "d": tensors[-1]}
    torch.save(content, tmp_path / "x.pth")
    assert equal(load_pth(tmp_path / "x.pth"), torch.load(tmp_path / "x.pth"))


def test_checkpoint_of_a_training_script(tmp_path):
    """torchvision's writes such; and its IMAGENET1K_V1 is an OrderedDict of parameters and buffers."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "args": Namespace(lr=0.1)}
    content |= {"parameters": OrderedDict(model.named_parameters()), "lr_scheduler": schedule.state_dict()}
    torch.save(content, tmp_path / "x.pth")
    ours = load_pth(tmp_path / "x.pth")
    del content["lr_scheduler"]["milestones"]  # a Counter, which is not kept
    assert ours["lr_scheduler"].pop("milestones") == {} and equal(ours, content)


def archive(path, pickled, compression=zipfile.ZIP_STORED, **storages):
    """Write an archive like PyTorch's, but with any pickle in it."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x/data.pkl", pickled)
        for key, content in storages.items():
            file.writestr(f"x/data/{key}", content)
    return path


def harmless(path):
    """Read a file that may hold anything: the arrays, or the error's line; within its due of time and memory."""
    global events
    tracemalloc.start()
    start, events = time.process_time(), []
    try:
        found = checkpoint(path)
    except ExportError as error:
        found = str(error)
        assert "\n" not in found and str(path) in found
    finally:
        seen, events = events, None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert not [e for e in seen if e in ("exec", "compile") or e.startswith(("os.", "subprocess.", "ctypes."))]
    assert peak < 2 * MIB + 8 * path.stat().st_size and time.process_time() - start < 5
    return found


def tensor_pickle(offset=0, shape=(2,), strides=(1,), size=2, key="0", dtype="FloatStorage"):
    """The pickle of {"a": tensor}, whose numbers may be any."""
    storage = b"(X\x07\x00\x00\x00storagectorch\n%s\n" % dtype.encode() + pickle.dumps(key, 2)[2:-1]
    storage += b"X\x03\x00\x00\x00cpu" + pickle.dumps(size, 2)[2:-1] + b"tQ"
    arguments = b"(" + storage + b"".join(pickle.dumps(x, 2)[2:-1] for x in (offset, shape, strides)) + b"\x89}t"
    return b"\x80\x02}X\x01\x00\x00\x00a" + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


TWICE = b")" + b"q\x00h\x00\x86" * 200  # a tuple of twice a tuple of twice a tuple ...: its hash takes 2**200 steps
HOSTILE = {
    "a command": (b"cos\nsystem\n(X\x04\x00\x00\x00echotR.", r"holds Python objects (os.system)"),
    "protocol 4": (pickle.dumps(io.BytesIO, 4), "needs pickle's FRAME"),
    "a large memo": (b"\x80\x02Nr\xff\xff\xff\x7f.", "no state dict"),
    "very many lists": (b"\x80\x02" + b"]" * MIB, "too many instructions"),
    "a long pickle": (b"\x80\x02" + b"]" * 5 * MIB, "more than 4 MiB"),
    "a key that hashes for ever": (b"\x80\x02}" + TWICE + b"Ns.", "damaged"),
    "a type that hashes for ever": (b"\x80\x02(N" + TWICE + b"X\x01\x00\x00\x000NNtQ.", "damaged"),
    "a long call again and again": (b"\x80\x02(" + b"N" * 9 + b"tq\x00ccollections\nOrderedDict\nh\x00R.", "damaged"),
    "a name with a newline": (b"\x80\x02cos\x1b[31m\nsystem\n.", r"(os\x1b[31m.system)"),
    "beyond its storage": (tensor_pickle(shape=(3,)), "damaged"),
    "backwards": (tensor_pickle(offset=1, strides=(-1,)), "damaged"),
    "a storage larger than its entry": (tensor_pickle(size=3), "damaged"),
    "complex numbers": (tensor_pickle(dtype="ComplexFloatStorage"), "(torch.ComplexFloatStorage)"),
    "2**60 numbers that are one": (tensor_pickle(shape=(2**30, 2**30), strides=(0, 0)), "not a ResNet-50"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles(name, tmp_path):
    pickled, message = HOSTILE[name]
    assert message in harmless(archive(tmp_path / "x.pth", pickled, **{"0": bytes(8)}))


def test_archives_that_lie(tmp_path):
    whole = archive(tmp_path / "x.pth", tensor_pickle(), **{"0": bytes(8)})
    assert load_pth(whole)["a"].shape == (2,)
    assert "compressed or overlapping" in harmless(archive(tmp_path / "z", tensor_pickle(), zipfile.ZIP_DEFLATED))
    content = whole.read_bytes()
    place = content.rindex(b"PK\x01\x02") + 20  # the two sizes in the central directory's last entry
    for size in (b"\x09\0\0\0", b"\xff\xff\xff\x7f"):
        (tmp_path / "lie").write_bytes(content[:place] + size * 2 + content[place + 8 :])
        assert isinstance(harmless(tmp_path / "lie"), str)
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert "the format of PyTorch before 1.6" in harmless(tmp_path / "old.pth")


def test_few_numbers_for_many(tmp_path):
    """A ResNet-50 of a few bytes: its views with strides of 0 are not spread out."""
    shapes = tensor_shapes(10**12)
    torch.save({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}, tmp_path / "x.pth")
    assert "more numbers than it has bytes" in harmless(tmp_path / "x.pth")


@st.composite
def damages(draw, content):
    """Some bytes changed, cut, doubled or put in."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = start + draw(st.sampled_from([0, 1, 1, 4, 64, 4096]))
        content[start:stop] = draw(st.one_of(st.binary(max_size=8), st.just(content[start:stop] * 2)))
    return bytes(content)


@pytest.mark.parametrize("examples", [200, pytest.param(10_000, marks=pytest.mark.exhaustive)])
def test_damaged_files(examples, tmp_path, monkeypatch):
    """The whole file is damaged, or its pickle, with the checksums put right."""
    monkeypatch.setattr(architecture, "STAGES", ((1, 2),))
    path, tensors = tmp_path / "x.pth", {name: torch.from_numpy(a) for name, a in synthetic(0, 3).items()}
    torch.save({"model": tensors, "epoch": 3, "args": Namespace(lr=0.1)}, path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        storages = {name.rpartition("/")[2]: file.read(name) for name in file.namelist() if "/data/" in name}
        pickled = file.read("x/data.pkl")

    @settings(max_examples=examples, **SHARED)
    @given(content=st.none() | damages(content), pickled=damages(pickled))
    def damaged(content, pickled):
        if content is None:
            archive(path, pickled, **storages)
        else:
            path.write_bytes(content)
        found = harmless(path)
        assert isinstance(found, str) or found.keys() == tensors.keys()

    damaged()
