"""The buffer plan: where in one array every activation lives, decided before any code is written.

Buffers are taken and released in the order in which inference will write and last read them. Two buffers
that are never live at the same time may share memory, except those with a border of zeros: a border is written
once, at the start, so nothing else may ever lie there.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

PARTS = 8  # of a thread's share of a step, as in threads.py
ALIGNMENT = 16  # float32 numbers: buffers start at the 64-byte boundaries of cache lines, as the widest vectors must


@dataclass(eq=False)
class Buffer:
    """A planned activation, in groups of channels: (groups, height + 2 border, width + 2 border, lanes).

    A group has as many channels as a vector register has lanes. So a pixel of a group is one register, and neighbouring
    pixels are neighbours in memory. All sizes are in float32 numbers.
    """

    name: str
    shape: tuple[int, int, int]  # (height, width, channels)
    lanes: int
    border: int = 0
    offset: int = 0  # in the plan's memory
    array: NDArray[np.float32] | None = field(default=None, repr=False)  # a view of the pixels, once that is allocated

    def __post_init__(self):
        self.height, self.width, self.channels = self.shape
        self.groups = self.channels // self.lanes
        self.row = (self.width + 2 * self.border) * self.lanes
        self.plane = (self.height + 2 * self.border) * self.row
        self.size = self.groups * self.plane

    def at(self, y: int, x: int) -> int:
        """Return how far pixel (y, x) of the first group lies from the buffer's start. The border begins at -border."""
        return (y + self.border) * self.row + (x + self.border) * self.lanes

    def channels_last(self) -> NDArray[np.float32]:
        """Return a copy of the activation as (height, width, channels)."""
        return self.array.transpose(1, 2, 0, 3).copy().reshape(self.shape)

    def __str__(self):
        border = f"b{self.border}" if self.border else ""
        return f"{self.channels}x{self.height}x{self.width}{border}"


class BufferPlan:
    """Hands out buffers first-fit: each gets the lowest gap between the live ones that holds it."""

    def __init__(self, threads: int):
        """threads: of their parts each has a number before every buffer, for the largest that it wrote there."""
        self.maxima = align(PARTS * threads)
        self.buffers = []  # all, in the order in which they were taken
        self.live = []  # those not yet released, by offset, and all with a border
        self.bordered = []  # those with a border that are free; only a buffer of the same shape may follow
        self.size = 0  # float32 numbers that the plan needs

    def take(self, name: str, shape: tuple[int, int, int], lanes: int, border: int = 0) -> Buffer:
        """Return a Buffer that overlaps none that is live."""
        for buffer in self.bordered:
            if (buffer.shape, buffer.lanes, buffer.border) == (shape, lanes, border):
                self.bordered.remove(buffer)
                return buffer
        # One with a border lies above all that was ever taken.
        buffer = Buffer(name, shape, lanes, border, self.maxima + (align(self.size) if border else 0))
        for index, other in enumerate([*self.live, None]):
            if other is None or buffer.offset + buffer.size <= other.offset - self.maxima:
                self.live.insert(index, buffer)
                break
            buffer.offset = max(buffer.offset, self.maxima + align(other.offset + other.size))
        self.buffers.append(buffer)
        self.size = max(self.size, buffer.offset + buffer.size)
        return buffer

    def release(self, *buffers: Buffer) -> None:
        """Let later buffers use this memory."""
        for buffer in buffers:
            if buffer.border:
                self.bordered.append(buffer)
            else:
                self.live.remove(buffer)

    def allocate(self) -> None:
        """Allocate the memory, touch all of its pages, and give every buffer its array."""
        self.memory = aligned(self.size + 8 * ALIGNMENT)  # AMX may load a pixel or two from beyond the last
        for buffer in self.buffers:
            padded = self.memory[buffer.offset : buffer.offset + buffer.size]
            padded = padded.reshape(buffer.groups, -1, buffer.row // buffer.lanes, buffer.lanes)
            y, x = (slice(buffer.border, buffer.border + size) for size in buffer.shape[:2])
            buffer.array = padded[:, y, x]


def align(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def aligned(size: int) -> NDArray[np.float32]:
    """Return `size` float32 zeros that start at the boundary of a cache line."""
    memory = np.empty(size + ALIGNMENT, dtype=np.float32)
    start = -(memory.ctypes.data // memory.itemsize) % ALIGNMENT
    memory = memory[start : start + size]
    memory.fill(0)  # the kernel maps the pages now, not during the first picture
    return memory
