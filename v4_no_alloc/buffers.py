"""The buffer plan: where in one block of memory every activation lives, decided before the first picture.

Buffers are taken and released in the order in which inference will write and last read them. Two buffers
that are never live at the same time may share memory.
"""

import math

import numpy as np

ALIGNMENT = 16  # float32 numbers: buffers start at the 64-byte boundaries of cache lines


class Buffer:
    """A planned float32 array: its name, shape and place (offset in float32 numbers) in the plan's block."""

    def __init__(self, name, shape, offset):
        self.name, self.shape, self.offset = name, tuple(shape), offset
        self.size = math.prod(self.shape)
        self.array = None  # a view of the block, once the plan is allocated


class BufferPlan:
    """Hands out buffers first-fit: each gets the lowest gap between the live ones that holds it."""

    def __init__(self):
        self.buffers = []  # all, in the order in which they were taken
        self.live = []  # those not yet released, by offset
        self.size = 0  # float32 numbers that the block needs

    def take(self, name, shape):
        """Return a Buffer that overlaps none that is live."""
        buffer = Buffer(name, shape, offset=0)
        for index, other in enumerate([*self.live, None]):
            if other is None or buffer.offset + buffer.size <= other.offset:
                self.live.insert(index, buffer)
                break
            end = other.offset + other.size
            buffer.offset = -(-end // ALIGNMENT) * ALIGNMENT
        self.buffers.append(buffer)
        self.size = max(self.size, buffer.offset + buffer.size)
        return buffer

    def release(self, *buffers):
        """Let later buffers use this memory."""
        for buffer in buffers:
            self.live.remove(buffer)

    def allocate(self):
        """Allocate the block, touch all of its pages, and give every buffer its array."""
        block = np.empty(self.size + ALIGNMENT, dtype=np.float32)
        start = -(block.ctypes.data // block.itemsize) % ALIGNMENT
        self.block = block[start : start + self.size]
        self.block.fill(0)  # page faults happen here, not during the first picture
        for buffer in self.buffers:
            buffer.array = self.block[buffer.offset : buffer.offset + buffer.size].reshape(buffer.shape)

    def __str__(self):
        """The plan as a table: name, shape, offset and size in bytes, and the totals."""
        lines = [f"{'buffer':32} {'shape':>16} {'offset':>12} {'bytes':>12}"]
        for buffer in self.buffers:
            shape = "x".join(map(str, buffer.shape))
            lines.append(f"{buffer.name:32} {shape:>16} {4 * buffer.offset:12,} {4 * buffer.size:12,}")
        unshared = sum(4 * buffer.size for buffer in self.buffers)
        lines.append(f"{'total':32} {'':16} {'':12} {4 * self.size:12,}")
        lines.append(f"{'without sharing':32} {'':16} {'':12} {unshared:12,}")
        return "\n".join(lines)
