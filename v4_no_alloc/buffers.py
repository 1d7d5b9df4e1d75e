"""The buffer plan: where in one array every activation lives, decided before the first picture.

Buffers are taken and released in the order in which inference will write and last read them. Two buffers
that are never live at the same time may share memory.
"""

from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray


@dataclass(eq=False)
class Buffer:
    """A planned float32 array: its name, shape and place (offset in float32 numbers) in the plan's memory."""

    name: str
    shape: tuple[int, ...]
    offset: int = 0
    array: NDArray[np.float32] | None = field(default=None, repr=False)  # a view, once the plan is allocated

    @property
    def size(self) -> int:
        return prod(self.shape)


class BufferPlan:
    """Hands out buffers first-fit: each gets the lowest gap between the live ones that holds it."""

    def __init__(self):
        self.buffers = []  # all, in the order in which they were taken
        self.live = []  # those not yet released, by offset
        self.size = 0  # float32 numbers that the plan needs

    def take(self, name: str, shape: tuple[int, ...]) -> Buffer:
        """Return a Buffer that overlaps none that is live."""
        buffer = Buffer(name, shape)
        for index, other in enumerate([*self.live, None]):
            if other is None or buffer.offset + buffer.size <= other.offset:
                self.live.insert(index, buffer)
                break
            buffer.offset = other.offset + other.size
        self.buffers.append(buffer)
        self.size = max(self.size, buffer.offset + buffer.size)
        return buffer

    def release(self, *buffers: Buffer) -> None:
        """Let later buffers use this memory."""
        for buffer in buffers:
            self.live.remove(buffer)

    def allocate(self) -> None:
        """Allocate the memory, touch all of its pages, and give every buffer its array."""
        self.memory = np.empty(self.size, dtype=np.float32)
        self.memory.fill(0)  # the kernel maps the pages now, not during the first picture
        for buffer in self.buffers:
            buffer.array = self.memory[buffer.offset : buffer.offset + buffer.size].reshape(buffer.shape)
