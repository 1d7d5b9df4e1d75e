"""A ladder inside version 5: one layer from a plain loop nest to generated code, a rung at a time.

The rungs are the C files in bench/rungs/, each a few lines away from the one before it; the last ones are the kernels
that versions 5, 7 and 8 generate for the same layer.
"""

import ctypes
import time
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

from bench.check import WrongOutput
from bench.inputs import Inputs
from bench.kernels import RUNGS_AT, V5, V7, V8, Rung, Task, build, compiled, hot_loop
from bench.race import say
from bench.results import entry, extra_info
from common.architecture import layers

LAYERS = {"3x3": "layer1.0.conv2", "1x1": "layer1.0.conv3"}
TILE_PIXELS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14)  # in rows of 56
ERRORS = [version.compiler.CompilerError for version in (V5, V7, V8)]
SHOWN = 12  # instructions of a rung's loop
# What -ffast-math says about sums, without what else it does to a program.
ANY_ORDER = ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math")
RUNGS = {
    "plain": Rung("plain C, -O2", "plain", ("-O2",)),
    "plain_o3": Rung("plain C, -O3", "plain"),
    "reordered": Rung("plain C, sums in any order", "plain", ("-O3", *ANY_ORDER)),
    "order": Rung("loop order", "order"),
    "blocks": Rung("channels in blocks", "blocks"),
    "tile": Rung("register tile", "tile"),
    "packed": Rung("packed weights", "packed"),
    "unrolled": Rung("unrolled by hand, -O2", "unrolled", ("-O2",)),
    "prefetch": Rung("prefetch", "prefetch", ("-O2",)),
    "fused": Rung("bias, residual, ReLU in registers", "fused", ("-O2",)),
    "v5": Rung("version 5's kernel", "v5_codegen"),
    "v7": Rung("version 7: Winograd", "v7_winograd", tolerance=3e-5),
    "v8": Rung("version 8: int8", "v8_int8", tolerance=5e-2),
    "tile_o2": Rung("register tile, -O2", "tile", ("-O2",), beside=True),
    "tile_spare": Rung("register tile, a spare panel in each row of weights", "tile", spare=1, beside=True),
}


def climb(inputs: Inputs, names: Sequence[str] = (), rounds: int = 15) -> list[dict]:
    """All rungs on all instruction sets that this machine has, or those named; then tiles of other sizes on the best.

    A group of results for each instruction set, one for the tiles, and one for sums that wait for nobody (chains.c).
    """
    found, rng = list(V5.compiler.Compiler().isas), np.random.default_rng(0)
    named = {layer.name: layer for layer in layers(224)}
    tasks = {name: Task(named[layer], rng) for name, layer in LAYERS.items()}
    entries = []
    for isa in [isa for isa in found if not names or isa in names]:
        contenders = {(layer, name): (RUNGS[name], {}) for layer in tasks for name in RUNGS}
        entries += take_turns(f"ladder, {isa}", isa, tasks, contenders, inputs, rounds)
    isa, channels = V5.compiler.ISAS[found[0]], tasks["3x3"].layer.out_shape[2]
    sizes = [(p, v) for v in (1, 2, 4) if channels % (v * isa.width) == 0 for p in TILE_PIXELS if p * v <= 32]
    tiles = {("3x3", f"{p} x {v}"): (RUNGS["fused"], {"pixels": p, "vectors": v}) for p, v in sizes}
    entries += take_turns("ladder, tiles", found[0], tasks, tiles, inputs, max(1, rounds // 3))
    return entries + chains(isa, inputs, rounds)


def take_turns(
    group: str, isa: str, tasks: dict[str, Task], contenders: dict, inputs: Inputs, rounds: int
) -> list[dict]:
    """Build all, check them, let them take turns. Return entries of a results file, as `race` does.

    contenders: {(layer, name): (rung, pixels and vectors of its tile)}.
    """
    kernels, entries = {}, []
    for key, (rung, tile) in contenders.items():
        say(f"{group}: {' '.join(key)}")
        try:
            if kernel := build(rung, tasks[key[0]], isa, **tile):
                kernels[key] = kernel, kernel.check(tasks[key[0]], rung.tolerance), []
        except (WrongOutput, *ERRORS) as reason:
            entries.append({"group": group, "name": " ".join(key), "reason": str(reason)})
    for turn in range(rounds):
        say(f"{group}: round {turn + 1} of {rounds}")
        for kernel, _, seconds in kernels.values():
            seconds.append(timed(kernel.run))
    for (layer, name), (kernel, error, seconds) in kernels.items():
        flops, loop = tasks[layer].layer.flops, hot_loop(kernel.assembly)
        facts = {"layer": layer, "rung": name, "isa": isa, "flops": flops, "gflops": flops / min(seconds) / 1e9}
        facts |= {"instructions": Counter(line.split()[0] for line in loop), "assembly": loop[:SHOWN]}
        facts |= {"max_abs_error": error}
        extra = extra_info("ladder", inputs, seconds, **facts | contenders[layer, name][1])
        entries.append(entry(f"{layer} {name}", group, seconds, extra))
    return entries


def timed(run: Callable[[], object]) -> float:
    """Return the median seconds of a few runs; the first warms up, unless it takes long."""
    seconds = []
    while len(seconds) < 6 and sum(seconds) < 0.05:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:] or seconds)


def chains(isa, inputs: Inputs, rounds: int) -> list[dict]:
    """How many sums must be under way at once: the rate of multiply-adds in 1 to 12 chains of them."""
    entries, count = [], 1_000_000
    for number in range(1, 13):
        flags = [*V5.compiler.FLAGS, *isa.flags, f"-DLANES={isa.width}", f"-DCHAINS={number}"]
        library, _ = compiled(V5.compiler.Compiler(), RUNGS_AT / "chains.c", flags)
        library.chains.argtypes, library.chains.restype = [ctypes.c_long, ctypes.c_float], ctypes.c_float
        seconds = [timed(lambda library=library: library.chains(count, 0.5)) for _ in range(rounds)]
        flops = 2 * isa.width * number * count
        facts = {"chains": number, "flops": flops, "gflops": flops / min(seconds) / 1e9}
        entries.append(entry(f"{number}", "ladder, chains", seconds, extra_info("ladder", inputs, seconds, **facts)))
    return entries
