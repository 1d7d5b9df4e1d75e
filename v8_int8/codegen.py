"""The generator: from the steps of a network to one C program."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import amx
from buffers import ALIGNMENT, Buffer
from compiler import Isa
from ops import VECTORS, ZERO, average_pool, braces, conv2d, fully_connected, quantize, weight_layout, window
from threads import POOL

PARAMETERS = "const float *weights, float *memory, long from, long to, long parts"


@dataclass(frozen=True)
class Step:
    """One operation of the network: `operator` of ops.py with its arguments, of which the first are two buffers."""

    name: str  # the layer's, as in the weights file
    operator: Callable
    x: Buffer
    out: Buffer
    arguments: dict
    offset: int = 0  # of its weights in the pool, in bytes
    batch_norm: str = ""  # the name of the batch norm that its weights include
    reads: tuple[str, ...] = ()  # the steps that wrote its input and its residual

    @property
    def kernel(self) -> int:
        return self.arguments.get("kernel", 1)

    @property
    def zero(self) -> int:
        """The byte that stands for zero in its output."""
        return ZERO if self.operator is quantize or not self.arguments.get("relu", True) else 0

    @property
    def has_weights(self) -> bool:
        return self.operator in (conv2d, fully_connected)

    @property
    def weight_size(self) -> int:
        """Bytes of weights and factors."""
        if self.has_weights:
            return self.out.channels * (12 + self.x.groups * prod(window(self.x, self.kernel)))
        return ALIGNMENT if self.operator in (quantize, average_pool) else 0

    def weight_layout(self, isa: Isa) -> tuple[int, int, int]:
        return weight_layout(isa, self.x, self.out, self.kernel)


def generate(steps: list[Step], isa: Isa) -> str:
    """Return the C program: a function for each distinct shape, one for each step by its name, and the thread pool."""
    functions, users, calls = {}, {}, []
    for step in steps:
        name, lines = step.operator(isa, step.x, step.out, **step.arguments)
        if functions.setdefault(name, lines) != lines:
            raise AssertionError(f"two functions are called {name}")
        users.setdefault(name, []).append(step.name)
        places = f"(byte *)memory + {step.x.offset}, (byte *)memory + {step.out.offset}"
        call = f"{name}((const byte *)weights + {step.offset}, {places}, from, to, parts);"
        calls += [*braces(f"static void {symbol(step.name)}({PARAMETERS})", [call]), ""]
    text = vector_types(isa)
    for name, lines in functions.items():
        text += [f"/* {', '.join(users[name])} */", *lines]
    table = [f"static void (*const steps[])({PARAMETERS}) = {{"]
    table += [f"    {symbol(step.name)}," for step in steps] + ["};", ""]
    return "\n".join(text + calls + table) + POOL


def vector_types(isa: Isa) -> list[str]:
    """Return the program's opening, with the vectors and instructions of dot.h."""
    return [
        f"/* Written by codegen.py for vectors of {isa.width} sums of 32 bits.",
        "   Names: 64x56x56b1 is an activation of 64 channels and 56x56 pixels, with a border of 1 pixel of zeros.",
        "   A function that ends in 2x3 computes a register tile: 2 rows of 3 pixels (7x7_0: the first tile of 7x7),",
        f"   {VECTORS * isa.width} output channels. The function after them calls them, tile by tile. */",
        f"#define WIDTH {isa.width}",
        f"#define GROUP {amx.GROUP if isa.tiles else VECTORS * isa.width}",
        *Path(__file__).with_name("dot.h").read_text().splitlines(),
        "",
    ]


def symbol(name: str) -> str:
    """The C function of a layer: layer1.0.conv2 is layer1_0_conv2."""
    return name.replace(".", "_")
