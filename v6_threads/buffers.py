"""The buffer plan: where in one block of memory every activation lives, decided before any code is written.

Buffers are taken and released in the order in which inference will write and last read them. Two buffers
that are never live at the same time may share memory, but those with a border of zeros: a border is written
once, at the start, so nothing else may ever lie there.
"""

import numpy as np

ALIGNMENT = 16  # float32 numbers: buffers start at the 64-byte boundaries of cache lines


def aligned(size):
    """Return `size` float32 zeros that start at the boundary of a cache line; their pages are touched."""
    block = np.empty(size + ALIGNMENT, dtype=np.float32)
    start = -(block.ctypes.data // block.itemsize) % ALIGNMENT
    block = block[start : start + size]
    block.fill(0)  # page faults happen here, not during the first picture
    return block


class Buffer:
    """A planned activation in channel blocks: (channels / block, height + 2 border, width + 2 border, block).

    With as many channels in a block as a vector register holds, a pixel's block is one register, and
    neighbouring pixels are neighbours in memory. shape is (height, width, channels); all sizes are in float32
    numbers, offset from the start of the plan's block of memory.
    """

    def __init__(self, name, shape, block, border=0, offset=0):
        self.name, self.shape, self.block, self.border, self.offset = name, tuple(shape), block, border, offset
        self.height, self.width, self.channels = shape
        self.blocks = self.channels // block
        self.row = (self.width + 2 * border) * block
        self.plane = (self.height + 2 * border) * self.row
        self.size = self.blocks * self.plane
        self.array = None  # a view of the memory without the border, once the plan is allocated

    def at(self, y, x):
        """Return how far pixel (y, x) of the first block lies from the buffer's start. The border begins at -border."""
        return (y + self.border) * self.row + (x + self.border) * self.block

    def channels_last(self):
        """Return a copy of the activation as (height, width, channels)."""
        return self.array.transpose(1, 2, 0, 3).reshape(self.shape)

    def __str__(self):
        border = f"b{self.border}" if self.border else ""
        return f"{self.channels}x{self.height}x{self.width}{border}"


class BufferPlan:
    """Hands out buffers first-fit: each gets the lowest gap between the live ones that holds it."""

    def __init__(self):
        self.buffers = []  # all, in the order in which they were taken
        self.live = []  # those not yet released, by offset
        self.bordered = []  # those with a border that are free; only a buffer of the same shape may follow
        self.size = 0  # float32 numbers that the block needs

    def take(self, name, shape, block, border=0):
        """Return a Buffer that overlaps none that is live."""
        if border:
            return self.take_bordered(name, shape, block, border)
        buffer = Buffer(name, shape, block)
        for index, other in enumerate([*self.live, None]):
            if other is None or buffer.offset + buffer.size <= other.offset:
                self.live.insert(index, buffer)
                break
            buffer.offset = self.align(other.offset + other.size)
        return self.note(buffer)

    def take_bordered(self, name, shape, block, border):
        """Return a free buffer of this shape, else a new one above all that was ever taken."""
        for buffer in self.bordered:
            if (buffer.shape, buffer.block, buffer.border) == (tuple(shape), block, border):
                self.bordered.remove(buffer)
                return buffer
        buffer = Buffer(name, shape, block, border, offset=self.align(self.size))
        self.live.append(buffer)
        return self.note(buffer)

    def note(self, buffer):
        self.buffers.append(buffer)
        self.size = max(self.size, buffer.offset + buffer.size)
        return buffer

    @staticmethod
    def align(offset):
        return -(-offset // ALIGNMENT) * ALIGNMENT

    def release(self, *buffers):
        """Let later buffers use this memory."""
        for buffer in buffers:
            if buffer.border:
                self.bordered.append(buffer)
            else:
                self.live.remove(buffer)

    def allocate(self):
        """Allocate the block, touch all of its pages, and give every buffer its array."""
        self.block = aligned(self.size)
        for buffer in self.buffers:
            padded = self.block[buffer.offset : buffer.offset + buffer.size]
            padded = padded.reshape(buffer.blocks, -1, buffer.row // buffer.block, buffer.block)
            y, x = (slice(buffer.border, buffer.border + size) for size in buffer.shape[:2])
            buffer.array = padded[:, y, x]

    def __str__(self):
        """The plan as a table: name, shape, offset and size in bytes, and the totals."""
        lines = [f"{'buffer':32} {'shape':>16} {'offset':>12} {'bytes':>12}"]
        for buffer in self.buffers:
            lines.append(f"{buffer.name:32} {buffer!s:>16} {4 * buffer.offset:12,} {4 * buffer.size:12,}")
        unshared = sum(4 * buffer.size for buffer in self.buffers)
        lines.append(f"{'total':32} {'':16} {'':12} {4 * self.size:12,}")
        lines.append(f"{'without sharing':32} {'':16} {'':12} {unshared:12,}")
        return "\n".join(lines)
