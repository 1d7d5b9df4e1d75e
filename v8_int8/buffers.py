"""The buffer plan: where in one array every activation lives, decided before any code is written.

Buffers are taken and released in the order in which inference will write and last read them. Two buffers
that are never live at the same time may share memory, except those with a border of zeros: a border is written
once, at the start, so nothing else may ever lie there.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes: buffers start at the 64-byte boundaries of cache lines, as the widest vectors must


@dataclass(eq=False)
class Buffer:
    """A planned activation, in groups of channels: (groups, height + 2 border, width + 2 border, lanes).

    A group has as many channels as a register tile computes, or twice as many. So a register tile's part of a pixel is
    stored at once, and neighbouring pixels are neighbours in memory. All sizes are in bytes.
    """

    name: str
    shape: tuple[int, int, int]  # (height, width, channels)
    lanes: int
    border: int = 0
    dtype: type = np.int8  # float32 at the edges of the network
    offset: int = 0  # in the plan's memory
    array: NDArray | None = field(default=None, repr=False)  # a view of the pixels, once that is allocated

    def __post_init__(self):
        self.height, self.width, self.channels = self.shape
        self.groups = self.channels // self.lanes
        self.row = (self.width + 2 * self.border) * self.lanes * np.dtype(self.dtype).itemsize
        self.plane = (self.height + 2 * self.border) * self.row
        self.size = self.groups * self.plane

    def at(self, y: int, x: int) -> int:
        """Return how far pixel (y, x) of the first group lies from the buffer's start. The border begins at -border."""
        return (y + self.border) * self.row + (x + self.border) * self.lanes

    def channels_last(self) -> NDArray[np.int8]:
        """Return a copy of the activation as (height, width, channels)."""
        return self.array.transpose(1, 2, 0, 3).reshape(self.shape)

    def __str__(self):
        border = f"b{self.border}" if self.border else ""
        return f"{self.channels}x{self.height}x{self.width}{border}"


class BufferPlan:
    """Hands out buffers first-fit: each gets the lowest gap between the live ones that holds it."""

    def __init__(self):
        self.buffers = []  # all, in the order in which they were taken
        self.live = []  # those not yet released, by offset, and all with a border
        self.bordered = []  # those with a border that are free; only a buffer of the same shape may follow
        self.size = 0  # bytes that the plan needs

    def take(self, name: str, shape: tuple[int, int, int], lanes: int, border: int = 0, dtype=np.int8) -> Buffer:
        """Return a Buffer that overlaps none that is live."""
        for buffer in self.bordered:
            if (buffer.shape, buffer.lanes, buffer.border) == (shape, lanes, border):
                self.bordered.remove(buffer)
                return buffer
        # One with a border lies above all that was ever taken.
        buffer = Buffer(name, shape, lanes, border, dtype, align(self.size) if border else 0)
        for index, other in enumerate([*self.live, None]):
            if other is None or buffer.offset + buffer.size <= other.offset:
                self.live.insert(index, buffer)
                break
            buffer.offset = max(buffer.offset, align(other.offset + other.size))
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
        self.memory = aligned(self.size + 32 * ALIGNMENT)  # AMX may load 1152 bytes from beyond the last row's end
        for buffer in self.buffers:
            padded = self.memory[buffer.offset : buffer.offset + buffer.size].view(buffer.dtype)
            padded = padded.reshape(buffer.groups, buffer.height + 2 * buffer.border, -1, buffer.lanes)
            y, x = (slice(buffer.border, buffer.border + size) for size in buffer.shape[:2])
            buffer.array = padded[:, y, x]


def align(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def aligned(size: int) -> NDArray[np.int8]:
    """Return `size` bytes of zeros that start at the boundary of a cache line."""
    memory = np.empty(size + ALIGNMENT, dtype=np.int8)
    start = -(memory.ctypes.data // memory.itemsize) % ALIGNMENT
    memory = memory[start : start + size]
    memory.fill(0)  # the kernel maps the pages now, not during the first picture
    return memory
