"""Count the arrays that NumPy allocates, by putting a counting allocator under it (NEP 49).

NumPy takes the memory of its arrays from a handler that can be exchanged through its C interface. Ours counts and
passes the call on to the C library. Python's own small objects are not counted, nor is memory taken by other
threads or by C code.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, PYFUNCTYPE, c_char_p, py_object

from numpy._core import _multiarray_umath

SIZE, POINTER = ctypes.c_size_t, ctypes.c_void_p
TYPES = {  # of the four functions, each with a context first
    "malloc": CFUNCTYPE(POINTER, POINTER, SIZE),
    "calloc": CFUNCTYPE(POINTER, POINTER, SIZE, SIZE),
    "realloc": CFUNCTYPE(POINTER, POINTER, POINTER, SIZE),
    "free": CFUNCTYPE(None, POINTER, POINTER, SIZE),
}
SET_HANDLER = 304  # PyDataMem_SetHandler's place in NumPy's table of C functions, fixed by its ABI
SMALLEST = 1024  # bytes; what is smaller is NumPy's own bookkeeping of shapes, strides and scalars


class Handler(ctypes.Structure):
    """PyDataMem_Handler of NumPy's C interface."""

    _fields_ = (("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("context", POINTER), *TYPES.items())


class Count:
    """Arrays of SMALLEST bytes and more that were allocated, and the bytes of all."""

    arrays = bytes = 0

    def add(self, size: int) -> None:
        self.arrays += size >= SMALLEST
        self.bytes += size


_kept = []  # an array frees its memory through the handler it came from, however long it lives


@contextmanager
def counted_allocations() -> Iterator[Count]:
    """Yield a Count of the arrays that this thread allocates inside the `with` block."""
    count = Count()
    handler = Handler(b"counting", 1, None, *_counting_functions(count))
    new_capsule = PYFUNCTYPE(py_object, POINTER, c_char_p, POINTER)(("PyCapsule_New", ctypes.pythonapi))
    pointer = PYFUNCTYPE(POINTER, py_object, c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
    capsule = new_capsule(ctypes.addressof(handler), b"mem_handler", None)
    _kept.append((handler, capsule))
    table = ctypes.cast(pointer(_multiarray_umath._ARRAY_API, None), ctypes.POINTER(POINTER))
    set_handler = PYFUNCTYPE(py_object, py_object)(table[SET_HANDLER])
    previous = set_handler(capsule)
    try:
        yield count
    finally:
        set_handler(previous)


def _counting_functions(count: Count) -> list:
    libc = ctypes.CDLL(None)
    for name, arguments in (("malloc", [SIZE]), ("calloc", [SIZE, SIZE]), ("realloc", [POINTER, SIZE])):
        getattr(libc, name).restype, getattr(libc, name).argtypes = POINTER, arguments
    libc.free.restype, libc.free.argtypes = None, [POINTER]

    functions = {
        "malloc": lambda context, size: count.add(size) or libc.malloc(size),
        "calloc": lambda context, number, size: count.add(number * size) or libc.calloc(number, size),
        "realloc": lambda context, pointer, size: count.add(size) or libc.realloc(pointer, size),
        "free": lambda context, pointer, size: libc.free(pointer),
    }
    return [TYPES[name](function) for name, function in functions.items()]
