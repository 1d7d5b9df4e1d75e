"""The generator: from the steps of a network to one C program."""

from collections.abc import Callable
from dataclasses import dataclass

from buffers import Buffer
from compiler import Isa
from ops import VECTORS, braces, conv2d, fully_connected, weight_layout
from ozaki import TILES, ozaki_conv2d
from threads import POOL

MAXIMA = """\
/* Before a buffer lies a number for each part of its step: the largest that was written. A call for several parts puts
   it in the first one's place. */
static void keep_largest(float *output, vector most, long from, long to) {
    for (long part = from; part < to; part += 1) {
        output[-1 - part] = 0.0f;
    }
    for (unsigned long lane = 0; lane < sizeof most / sizeof *output; lane += 1) {
        output[-1 - from] = most[lane] > output[-1 - from] ? most[lane] : output[-1 - from];
    }
}

static float largest(const float *input, long parts) {
    float most = 0.0f;
    for (long part = 0; part < parts; part += 1) {
        most = input[-1 - part] > most ? input[-1 - part] : most;
    }
    return most;
}
"""
PARAMETERS = "const float *weights, float *memory, long from, long to, long parts"


@dataclass(frozen=True)
class Step:
    """One operation of the network: `operator` of ops.py with its arguments, of which the first are two buffers."""

    name: str  # the layer's, as in the weights file
    operator: Callable
    x: Buffer
    out: Buffer
    arguments: dict
    offset: int = 0  # of its weights in the pool, in float32 numbers
    batch_norm: str = ""  # the name of the batch norm that its weights include

    @property
    def kernel(self) -> int:
        return self.arguments.get("kernel", 1)

    @property
    def has_weights(self) -> bool:
        return self.operator in (conv2d, fully_connected, ozaki_conv2d)

    @property
    def weight_size(self) -> int:
        """float32 numbers of weights and biases, and of the units that ozaki_conv2d needs."""
        factors = 2 if self.operator == ozaki_conv2d else 1
        return self.out.channels * (factors + self.x.channels * self.kernel**2) if self.has_weights else 0

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
        call = (
            f"{name}(weights + {step.offset}, memory + {step.x.offset}, memory + {step.out.offset}, from, to, parts);"
        )
        calls += [*braces(f"static void {symbol(step.name)}({PARAMETERS})", [call]), ""]
    text = vector_types(isa)
    for name, lines in functions.items():
        text += [f"/* {', '.join(users[name])} */", *lines]
    table = [f"static void (*const steps[])({PARAMETERS}) = {{"]
    table += [f"    {symbol(step.name)}," for step in steps] + ["};", ""]
    return "\n".join(text + calls + table) + POOL


def vector_types(isa: Isa) -> list[str]:
    """Return the program's opening: GCC's and clang's notation for vectors, which may lie on top of float arrays."""
    attributes = f"__attribute__((vector_size({4 * isa.width}), may_alias))"
    lines = [
        f"/* Written by codegen.py for vectors of {isa.width} float32 numbers.",
        "   Names: 64x56x56b1 is an activation of 64 channels and 56x56 pixels, with a border of 1 pixel of zeros.",
        "   A function that ends in 2x3 computes a register tile: 2 rows of 3 pixels (7x7_0: the first tile of 7x7),",
        f"   {VECTORS * isa.width} output channels. The function after them calls them, tile by tile. */",
        f"typedef float vector {attributes};",
        f"typedef int mask {attributes};",
        "",
        *MAXIMA.splitlines(),
    ]
    return [*lines, *(TILES.splitlines() if isa.tiles else []), ""]


def symbol(name: str) -> str:
    """The C function of a layer: layer1.0.conv2 is layer1_0_conv2."""
    return name.replace(".", "_")
