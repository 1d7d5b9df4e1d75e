"""Read PyTorch's checkpoints (.pth, .pt) with NumPy alone, and without running anything that is in them.

A checkpoint is a zip archive: `data.pkl`, a pickle that describes every tensor, and `data/0`, `data/1`, … with the
numbers. A pickle is a program for a small machine that can call any function of Python. The one here knows what a state
dict needs, and no more, and checks what a file claims against what it holds: time and memory stay in proportion to it.
"""

import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.weights_file import ExportError

SAVE = "save your model with torch.save(model.state_dict(), FILE)"
OLD = "is in the format of PyTorch before 1.6; with PyTorch: torch.save(torch.load(OLD_FILE, map_location='cpu'), FILE)"
OLD_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
LARGEST_PICKLE = 4 << 20  # bytes; ResNet-50's has 39,000
MOST_OPCODES = 300_000  # ResNet-50's has 11,000, with an optimizer's state 26,000
OPCODES = [
    "PROTO", "STOP", "GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID", "BINGET", "LONG_BINGET", "BINPUT",
    "LONG_BINPUT", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE",
    "MARK", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT",
    "SETITEM", "SETITEMS"]  # fmt: skip
BFLOAT16 = "V2"  # NumPy has no such type; to it they are two bytes
DTYPES = {"Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": BFLOAT16, "Long": "<i8", "Int": "<i4",
          "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?"}  # fmt: skip


def to_float32(content: bytes, dtype: str) -> NDArray[np.float32]:
    """Return the numbers in `content`, of one of the types DTYPES.values(), as a flat float32 array."""
    array = np.frombuffer(content, dtype)
    if dtype == BFLOAT16:  # the upper half of a float32
        return (array.view("<u2").astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # the exporter refuses infinity by the tensor's name
        return array.astype(np.float32, copy=False)


class Storage(NamedTuple):
    """The numbers of one or more tensors, read when the first of them is needed."""

    read: Callable[[], NDArray[np.float32]]
    size: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count numbers. np.asarray(tensor) is a float32 array."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __array__(self, dtype=None, copy=None) -> NDArray[np.float32]:
        array = self.storage.read()[self.offset :]
        return np.lib.stride_tricks.as_strided(array, self.shape, [4 * n for n in self.strides], writeable=False)


def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *autograd: Any) -> Tensor:
    """What stands for torch._utils._rebuild_tensor_v2: every number that it can reach is in the storage."""
    plain = len(shape) == len(strides) <= 8 and all(type(n) is int and n >= 0 for n in (offset, *shape, *strides))
    if not plain or not isinstance(storage, Storage):
        raise ValueError("not a tensor")
    if 0 not in shape and offset + sum((n - 1) * stride for n, stride in zip(shape, strides)) >= storage.size:
        raise ValueError("a tensor reaches beyond its storage")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def empty(*arguments: Any) -> dict:
    """What stands for a container, which the pickle then fills, and for objects whose content is of no use here."""
    return {}


GLOBALS = {
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *autograd: tensor,  # in torchvision's file of IMAGENET1K_V1
    "collections.OrderedDict": empty,
    "collections.Counter": empty,  # the state of a learning rate's schedule
    "argparse.Namespace": empty,  # the command line of torchvision's training script
} | {f"torch.{name}Storage": dtype for name, dtype in DTYPES.items()}


class Unpickler(pickle._Unpickler):
    """Python's own unpickler, with fewer instructions. (C's takes a gigabyte for nine hostile bytes.)"""

    dispatch = {getattr(pickle, n)[0]: pickle._Unpickler.dispatch[getattr(pickle, n)[0]] for n in OPCODES}  # noqa: RUF012

    def find_class(self, module: str, name: str) -> Any:
        if (found := GLOBALS.get(f"{module}.{name}")) is None:
            raise ExportError(f"holds Python objects ({ascii(f'{module}.{name}'[:80])[1:-1]}), never loaded: {SAVE}")
        return found

    def call(self) -> None:
        arguments = self.stack.pop()
        if not isinstance(arguments, tuple) or len(arguments) > 8:
            raise ValueError("a call with too many arguments")
        self.append(self.stack.pop()(*arguments))

    def set_items(self, items: list) -> None:
        if not all(isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**31) for key in items[::2]):
            raise ValueError("a key that may take a lifetime to hash, such as tuples of tuples of tuples")
        dict.update(self.stack[-1], zip(items[::2], items[1::2]))

    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = call
    dispatch[pickle.SETITEM[0]] = lambda self: self.set_items([self.stack.pop(-2), self.stack.pop()])
    dispatch[pickle.SETITEMS[0]] = lambda self: self.set_items(self.pop_mark())
    dispatch[pickle.BUILD[0]] = lambda self: self.stack.pop()  # an object's attributes: of no use here


def load_pth(file: Path) -> Any:
    """Return what torch.save wrote: plain containers and numbers, and a Tensor for each tensor.

    The file is open until the last Tensor is gone. A damaged file raises ExportError or whatever else it leads to.
    """
    with open(file, "rb") as opened:
        start = opened.read(512)
    if start.startswith(OLD_START[:-1]) or start[257:262] == b"ustar":
        raise ExportError(OLD)
    archive = zipfile.ZipFile(file)
    entries = {entry.filename: entry for entry in archive.infolist()}
    stored = all(e.compress_type == zipfile.ZIP_STORED and e.compress_size == e.file_size for e in archive.infolist())
    if not stored or sum(e.file_size for e in archive.infolist()) > file.stat().st_size:
        raise ExportError(f"has compressed or overlapping entries, which PyTorch does not write: {SAVE}")
    (pickled,) = (name for name in entries if name.endswith("/data.pkl"))
    if entries[pickled].file_size > LARGEST_PICKLE:
        raise ExportError(f"describes its tensors in more than {LARGEST_PICKLE >> 20} MiB: {SAVE}")
    content = archive.read(pickled)
    for count, (opcode, _, _) in enumerate(pickletools.genops(content)):
        if opcode.name not in OPCODES or count == MOST_OPCODES:
            needs = "too many instructions" if opcode.name in OPCODES else f"pickle's {opcode.name}"
            raise ExportError(f"needs {needs}, as no state dict does: {SAVE}")
    storages = {}

    def storage(pid):
        _, dtype, key, _, size = pid
        entry = entries[pickled.removesuffix("data.pkl") + "data/" + key]
        if dtype not in DTYPES.values() or type(size) is not int or size * np.dtype(dtype).itemsize != entry.file_size:
            raise ValueError("a storage differs from its entry")
        return storages.setdefault((key, dtype), Storage(cache(lambda: to_float32(archive.read(entry), dtype)), size))

    unpickler = Unpickler(io.BytesIO(content))
    unpickler.persistent_load = storage
    return unpickler.load()
