"""Count the arrays that NumPy allocates, by putting a counting allocator under it (NEP 49).

NumPy takes the memory of its arrays from a handler that can be exchanged through its C interface. Ours counts and
passes the call on to the C library. Python's own small objects are not counted, nor is memory taken by other
threads or by C code.
"""

import ctypes
from contextlib import contextmanager

from numpy._core import _multiarray_umath

SIZE, POINTER = ctypes.c_size_t, ctypes.c_void_p
MALLOC = ctypes.CFUNCTYPE(POINTER, POINTER, SIZE)
CALLOC = ctypes.CFUNCTYPE(POINTER, POINTER, SIZE, SIZE)
REALLOC = ctypes.CFUNCTYPE(POINTER, POINTER, POINTER, SIZE)
FREE = ctypes.CFUNCTYPE(None, POINTER, POINTER, SIZE)
SET_HANDLER = 304  # PyDataMem_SetHandler's place in NumPy's table of C functions, fixed by its ABI


class Handler(ctypes.Structure):
    """PyDataMem_Handler of NumPy's C interface."""

    _fields_ = [("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("context", POINTER),
                ("malloc", MALLOC), ("calloc", CALLOC), ("realloc", REALLOC), ("free", FREE)]


SMALLEST = 1024  # bytes; what is smaller is NumPy's own bookkeeping of shapes, strides and scalars


class Count:
    """Arrays of SMALLEST bytes and more that were allocated, and the bytes of all."""

    def __init__(self):
        self.arrays = self.bytes = 0

    def add(self, size):
        self.arrays += size >= SMALLEST
        self.bytes += size


_kept = []  # an array frees its memory through the handler it came from, however long it lives


@contextmanager
def counted_allocations():
    """Yield a Count of the arrays that this thread allocates inside the `with` block."""
    count = Count()
    handler = _counting_handler(count)
    api = ctypes.pythonapi
    api.PyCapsule_New.restype = ctypes.py_object
    api.PyCapsule_New.argtypes = [POINTER, ctypes.c_char_p, POINTER]
    api.PyCapsule_GetPointer.restype = POINTER
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    capsule = api.PyCapsule_New(ctypes.addressof(handler), b"mem_handler", None)
    _kept.append((handler, capsule))
    table = ctypes.cast(api.PyCapsule_GetPointer(_multiarray_umath._ARRAY_API, None), ctypes.POINTER(POINTER))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[SET_HANDLER])
    previous = set_handler(capsule)
    try:
        yield count
    finally:
        set_handler(previous)


def _counting_handler(count):
    libc = ctypes.CDLL(None)
    for name, arguments in (("malloc", [SIZE]), ("calloc", [SIZE, SIZE]), ("realloc", [POINTER, SIZE])):
        getattr(libc, name).restype, getattr(libc, name).argtypes = POINTER, arguments
    libc.free.restype, libc.free.argtypes = None, [POINTER]

    def malloc(context, size):
        count.add(size)
        return libc.malloc(size)

    def calloc(context, number, size):
        count.add(number * size)
        return libc.calloc(number, size)

    def realloc(context, pointer, size):
        count.add(size)
        return libc.realloc(pointer, size)

    def free(context, pointer, size):
        libc.free(pointer)

    return Handler(b"counting", 1, None, MALLOC(malloc), CALLOC(calloc), REALLOC(realloc), FREE(free))
