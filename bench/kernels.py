"""One layer's kernels: the C files in bench/rungs/, and what versions 5, 7 and 8 generate; checked against float64."""

import ctypes
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.check import WrongOutput
from common.architecture import Layer
from common.versions import load_version

RUNGS_AT = Path(__file__).with_name("rungs")
V5, V7, V8 = map(load_version, ("v5_codegen", "v7_winograd", "v8_int8"))


class Rung(NamedTuple):
    """A C file with the compiler's flags for it, or a version's kernel."""

    title: str
    source: str  # a file of bench/rungs, or a version
    flags: tuple[str, ...] = ("-O3",)
    spare: int = 0  # panels of unused weights at the end of each row
    tolerance: float = 1e-5  # of the largest output
    beside: bool = False  # not a rung, but an experiment about one


class Task:
    """A layer, random numbers for it, and the right answer."""

    def __init__(self, layer: Layer, rng: np.random.Generator):
        """A bottleneck's last convolution, conv3, adds the residual."""
        self.layer, self.residual_too = layer, layer.name.endswith("conv3")
        (height, width, in_channels), kernel = self.layer.in_shape, self.layer.kernel
        out_channels, border = self.layer.out_shape[2], kernel // 2
        self.x = rng.standard_normal(self.layer.in_shape, dtype=np.float32).clip(0)  # as after a ReLU
        self.padded = np.pad(self.x, ((border, border), (border, border), (0, 0)))
        self.weight = rng.standard_normal((out_channels, kernel, kernel, in_channels), dtype=np.float32)
        self.weight /= np.float32(np.sqrt(kernel**2 * in_channels))
        self.bias = rng.standard_normal(out_channels, dtype=np.float32)
        self.residual = np.abs(rng.standard_normal(self.layer.out_shape, dtype=np.float32)) * self.residual_too
        right = self.bias + self.residual.astype(np.float64)
        for y in range(kernel):
            for x in range(kernel):
                window = self.padded[y : y + height, x : x + width].astype(np.float64)
                right += window @ self.weight[:, y, x].T.astype(np.float64)
        self.right = np.maximum(right, 0)


class Kernel(NamedTuple):
    """Something that computes a layer."""

    prepare: Callable[[], object]  # fill its output with NaN, or with the residual if that is where it expects it
    run: Callable[[], object]
    result: Callable[[], NDArray]  # what it has computed, (height, width, channels)
    assembly: str  # all its code
    memory: tuple  # what `run` has the addresses of

    def check(self, task: Task, tolerance: float) -> float:
        """Run once. Return the largest error, as a share of the largest output. Raises WrongOutput."""
        self.prepare()
        self.run()
        result = self.result()
        if not np.isfinite(result).all():
            raise WrongOutput(f"{np.count_nonzero(~np.isfinite(result))} of {result.size} outputs are not finite")
        error = float(np.abs(result - task.right).max() / task.right.max())
        if not error <= tolerance:
            raise WrongOutput(f"off by {error:.3g} of the largest output, where {tolerance:.3g} is allowed")
        return error


def build(rung: Rung, task: Task, isa: str, **tile: int) -> Kernel | None:
    """Compile a rung for a layer and an instruction set; None if there is no such kernel.

    tile: its `pixels` and `vectors`, if not version 5's. Raises CompilerError.
    """
    if rung.source == V8.name:
        return int8_kernel(task, V8.compiler.ISAS[isa]) if isa in V8.compiler.Compiler().isas else None
    if rung.source == V7.name:
        return version_kernel(V7, task, V7.compiler.ISAS[isa]) if task.layer.kernel == 3 else None
    if rung.source == V5.name:
        return version_kernel(V5, task, V5.compiler.ISAS[isa])
    return rung_kernel(rung, task, V5.compiler.ISAS[isa], **tile)


def compiled(compiler, source: Path, flags: Sequence[str]) -> tuple[ctypes.CDLL, str]:
    """Return a C file as a library, and as assembly text."""
    with tempfile.TemporaryDirectory() as directory:
        library, assembly = Path(directory, "layer.so"), Path(directory, "layer.s")
        compiler.run(*flags, "-fPIC", "-shared", "-o", library, source)
        compiler.run(*flags, "-fPIC", "-S", "-g0", "-o", assembly, source)
        return ctypes.CDLL(str(library)), assembly.read_text()


def rung_kernel(rung: Rung, task: Task, isa, **tile: int) -> Kernel:
    flags = [*rung.flags, *isa.flags, "-ffp-contract=fast"]
    flags += [f"-D{name}={value}" for name, value in defines(rung, task, isa, **tile).items()]
    library, assembly = compiled(V5.compiler.Compiler(), RUNGS_AT / f"{rung.source}.c", flags)
    *_, residual, out = arrays = rung_arrays(rung, task, isa, tile.get("vectors", V5.ops.VECTORS))
    in_place = rung.source == "fused"  # the output takes the residual's place, as in version 5
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*arrays[:3], out if in_place else residual, out)]
    height, width, channels = task.layer.out_shape
    return Kernel(
        lambda: np.copyto(out, residual if in_place and task.residual_too else np.nan),
        lambda: library.layer(*pointers),
        lambda: out.reshape(-1, height * width, out.shape[-1]).transpose(1, 0, 2).reshape(height, width, channels),
        assembly,
        tuple(arrays),
    )


def defines(rung: Rung, task: Task, isa, pixels: int | None = None, vectors: int = V5.ops.VECTORS) -> dict[str, int]:
    """What rungs/layer.h expects of the command line. A 1x1 convolution takes all pixels as one row."""
    height, width, in_channels = task.layer.in_shape
    height, width = (1, height * width) if task.layer.kernel == 1 else (height, width)
    sizes = {"KERNEL": task.layer.kernel, "HEIGHT": height, "WIDTH": width, "IN": in_channels}
    sizes |= {"OUT": task.layer.out_shape[2], "RESIDUAL": int(task.residual_too), "SPARE": rung.spare}
    return sizes | {"LANES": isa.width, "VECTORS": vectors, "PIXELS": pixels or isa.pixels}


def rung_arrays(rung: Rung, task: Task, isa, vectors: int) -> list[NDArray[np.float32]]:
    """Return input, weights, bias, residual and output in the layouts that a rung expects."""
    lanes, panel = isa.width, vectors * isa.width
    activations = [task.padded, task.residual, np.zeros(task.layer.out_shape)]
    if rung.source not in ("plain", "order"):
        activations = [array.reshape(*array.shape[:2], -1, lanes).transpose(2, 0, 1, 3) for array in activations]
    weights = task.weight
    if rung.source in ("order", "blocks", "tile"):
        weights = weights.transpose(1, 2, 3, 0)  # (kernel, kernel, in, out)
        weights = np.pad(weights, ((0, 0), (0, 0), (0, 0), (0, rung.spare * panel)))
    elif rung.source != "plain":  # (panels, groups, kernel, kernel, lanes, panel)
        weights = weights.reshape(-1, panel, *weights.shape[1:3], weights.shape[3] // lanes, lanes)
        weights = weights.transpose(0, 4, 2, 3, 5, 1)
    return [aligned(array) for array in (activations[0], weights, task.bias, *activations[1:])]


def aligned(array: NDArray) -> NDArray[np.float32]:
    """Return a float32 copy that starts at a cache line, with a line after it to prefetch."""
    copy = V5.buffers.aligned(array.size + 16)[: array.size].reshape(array.shape)
    copy[...] = array
    return copy


def version_kernel(version, task: Task, isa) -> Kernel:
    """The code that version 5 or 7 generates for the layer."""
    layer, plan = task.layer, version.buffers.BufferPlan()
    x = plan.take("x", layer.in_shape, isa.width, layer.kernel // 2)
    out = plan.take("out", layer.out_shape, isa.width)
    weight = task.weight.astype(np.float64)
    if version is V5:
        arguments = {"kernel": layer.kernel, "padding": layer.kernel // 2, "add": task.residual_too}
        steps = [version.codegen.Step(layer.name, version.ops.conv2d, x, out, arguments)]
    else:
        winograd = version.winograd
        tiling = {"size": winograd.tile_size(isa, x, out) or (2, 2), "stride": layer.stride}  # (2, 2): for any layer
        tiles = plan.take("tiles", (*winograd.tiled_shape(isa, out, **tiling), layer.in_shape[2]), isa.width)
        steps = [
            version.codegen.Step(f"{layer.name}.transform", winograd.winograd_input, x, tiles, tiling),
            version.codegen.Step(layer.name, winograd.winograd_conv2d, tiles, out, tiling),
        ]
        weight = winograd.transform_weights(weight, **tiling)
    weights = version.buffers.aligned(steps[-1].weight_size)
    version.weights.pack(weight, task.bias, x.lanes, steps[-1].weight_layout(isa), weights)
    return generated(version, task, isa, plan, steps, weights, (x, out), (1.0, 1.0, 1.0))


def int8_kernel(task: Task, isa) -> Kernel:
    """The code that version 8 generates for the layer, its scales by the largest numbers."""
    layer, plan, lanes = task.layer, V8.buffers.BufferPlan(), V8.ops.VECTORS * isa.width
    x = plan.take("x", layer.in_shape, lanes, layer.kernel // 2)
    out = plan.take("out", layer.out_shape, lanes)
    arguments = {"kernel": layer.kernel, "padding": layer.kernel // 2, "add": task.residual_too}
    reads = ("x", "residual") if task.residual_too else ("x",)
    step = V8.codegen.Step(layer.name, V8.ops.conv2d, x, out, arguments, reads=reads)
    units = [float(array.max()) / 127 or 1.0 for array in (task.x, task.residual, task.right)]
    scales = {name: (unit, 0) for name, unit in zip(("x", "residual", layer.name), units)}
    weight, factors = V8.weights.quantized(task.weight.astype(np.float64), task.bias.astype(np.float64), step, scales)
    weights = V8.buffers.aligned(step.weight_size)
    V8.weights.pack(weight, factors, V8.ops.window(x, layer.kernel), step.weight_layout(isa), weights)
    return generated(V8, task, isa, plan, [step], weights, (x, out), units)


def generated(version, task, isa, plan, steps, weights, buffers, units) -> Kernel:
    """Compile steps, on one thread. buffers: input, output. units: what a 1 in input, residual, output means."""
    compiler, (x, out) = version.compiler.Compiler(), buffers
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "layer.c")
        source.write_text(version.codegen.generate(steps, isa))
        library, assembly = compiled(compiler, source, [*version.compiler.FLAGS, *isa.flags])
    plan.allocate()

    def put(buffer, array):
        buffer.array[...] = array.reshape(*array.shape[:2], -1, buffer.lanes).transpose(2, 0, 1, 3)

    def prepare():
        whole = version is V8
        put(x, np.rint(task.x / units[0]) if whole else task.x)
        empty = np.full(task.layer.out_shape, 64 if whole else np.nan)
        residual = np.rint(task.residual / units[1]) if whole else task.residual
        put(out, residual if task.residual_too else empty)

    if version is V5:
        library.forward.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
        pointers = weights.ctypes.data, plan.memory.ctypes.data
        run = lambda: library.forward(*pointers, 0, len(steps))  # noqa: E731
    else:
        pool = version.threads.Pool(library, weights, plan.memory, 1)
        run = lambda: pool.run(0, len(steps))  # noqa: E731
    return Kernel(prepare, run, lambda: out.channels_last() * units[2], assembly, (weights, plan.memory))


# A jump, on x86 and ARM, back to a label; and an instruction that multiplies numbers.
BRANCH = re.compile(r"\t(?:j|b|cb|tb).*?(\.?L\w+)$")
MULTIPLY = re.compile(r"v?(f?n?m(add|ul|la|sub)|pm(add|ul)|pdp|[su]dot)|f(mul|mla|madd)")


def hot_loop(assembly: str) -> list[str]:
    """Return the instructions of the innermost loop that multiplies most: from a label to a jump back to it."""
    lines = [line.split("#")[0].rstrip() for line in assembly.splitlines()]
    lines = [line for line in lines if re.match(r"\t\w|\.?L\w+:", line)]
    seen, loops = {}, []
    for number, line in enumerate(lines):
        if line.endswith(":"):
            seen[line[:-1]] = number
            continue
        jump = BRANCH.match(line)
        if jump and jump[1] in seen and not any(first >= seen[jump[1]] for first, _ in loops):
            loops.append((seen[jump[1]], number))
    found = [[line[1:].replace("\t", " ") for line in lines[a : b + 1] if line[0] == "\t"] for a, b in loops]
    return max(found, key=lambda loop: sum(bool(MULTIPLY.match(line)) for line in loop), default=[])
