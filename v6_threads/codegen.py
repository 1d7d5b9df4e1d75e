"""The generator: from the steps of a network to one C program."""

from dataclasses import dataclass

from ops import VECTORS, block, conv2d, fully_connected, weight_blocks
from threads import POOL
from winograd import winograd_conv2d

PARAMETERS = "const float *weights, float *arena, long thread, long threads"


@dataclass(frozen=True)
class Step:
    """One operation of the network: `operator` of ops.py with its arguments, of which the first are two buffers."""

    name: str  # the layer's, as in the weights
    operator: object
    x: object
    out: object
    arguments: dict
    weights: int = 0  # where its weights start in the pool, in float32 numbers
    batch_norm: str = ""  # the name of the batch norm that its weights include

    @property
    def kernel(self):
        return self.arguments.get("kernel", 1)

    @property
    def has_weights(self):
        return self.operator in (conv2d, fully_connected, winograd_conv2d)

    @property
    def taps(self):
        """Weights for each pair of an input and an output channel."""
        return (self.arguments["size"] + 2) ** 2 if self.operator == winograd_conv2d else self.kernel**2

    @property
    def weight_size(self):
        """float32 numbers of weights and biases."""
        return self.out.channels * (1 + self.x.channels * self.taps) if self.has_weights else 0

    @property
    def multiply_adds(self):
        """Those with weights: each is used for every pixel or, by Winograd's convolution, for every tile."""
        tiles = self.x.height * self.x.width // self.taps
        uses = tiles if self.operator == winograd_conv2d else self.out.height * self.out.width
        return uses * (self.weight_size - self.out.channels) if self.has_weights else 0

    @property
    def bytes(self):
        """Least number of bytes to move: weights, input, output, and the residual that the output held before."""
        activations = self.x.size + self.out.size * (2 if self.arguments.get("add") else 1)
        return 4 * (self.weight_size + activations)

    def weight_blocks(self, isa):
        return weight_blocks(isa, self.x, self.out, self.kernel)


def generate(steps, isa):
    """Return the C program: a function for each distinct shape, one for each step by its name, and the thread pool."""
    functions, users, calls = {}, {}, []
    for step in steps:
        name, lines = step.operator(isa, step.x, step.out, **step.arguments)
        if functions.setdefault(name, lines) != lines:
            raise AssertionError(f"two functions are called {name}")
        users.setdefault(name, []).append(step.name)
        call = f"{name}(weights + {step.weights}, arena + {step.x.offset}, arena + {step.out.offset}, thread, threads);"
        calls += [*block(f"static void {symbol(step.name)}({PARAMETERS})", [call]), ""]
    text = vector_types(isa)
    for name, lines in functions.items():
        text += [f"/* {', '.join(users[name])} */", *lines]
    table = [f"static void (*const steps[])({PARAMETERS}) = {{"]
    table += [f"    {symbol(step.name)}," for step in steps] + ["};", ""]
    return "\n".join(text + calls + table) + POOL


def vector_types(isa):
    """Return the program's opening: GCC's and clang's notation for vectors, which may lie on top of float arrays."""
    attributes = f"__attribute__((vector_size({4 * isa.width}), may_alias))"
    return [
        f"/* Written by codegen.py for vectors of {isa.width} float32 numbers.",
        "   Names: 64x56x56b1 is an activation of 64 channels and 56x56 pixels, with a border of 1 pixel of zeros.",
        "   A function that ends in 2x3 computes a register tile: 2 rows of 3 pixels,",
        f"   {VECTORS * isa.width} output channels. The function after it passes its tiles over the whole output. */",
        f"typedef float vector {attributes};",
        f"typedef int mask {attributes};",
        "",
    ]


def symbol(name):
    """The C function of a layer: layer1.0.conv2 is layer1_0_conv2."""
    return name.replace(".", "_")
