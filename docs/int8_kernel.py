"""Where version 8's time goes on AVX2, and what was tried for its innermost loop.

`python docs/int8_kernel.py`, on a quiet machine, takes two minutes. It writes docs/int8_kernel.json, and from it two
tables in v8_int8/README.md. Everything runs on one thread with synthetic weights; each time is the least of many.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tabulate import tabulate

from bench.inputs import SYNTHETIC, make_inputs
from bench.machine import generation, machine_info
from common.architecture import layers
from common.marked import fill
from common.versions import ROOT, load_version

RESULTS, ARTICLE = ROOT / "docs" / "int8_kernel.json", ROOT / "v8_int8" / "README.md"
PIXELS, CHANNELS, OUT_CHANNELS = 14 * 14, 256, 1024  # of the lone layer; all of it fits a second-level cache
REPEATS = 60
# What a row of the lone layer changes: channels between `begin` and `end`, pixels of a tile, whether gcc keeps order.
TRIED = {
    "`vpmaddubsw`, `vpmaddwd`, `vpaddd` for each four channels": (4, 4, True),
    "two products added in 16 bits before `vpmaddwd`": (8, 4, True),
    "four, in the order that gcc chooses": (16, 4, False),
    "four, in the order of the text: version 8": (16, 4, True),
}
FLOAT = "float32, 6 pixels: version 6"
TILES = (2, 3, 4, 5, 6)
PRAGMA = '#pragma GCC optimize("no-tree-ter", "no-tree-reassoc")'


def least(run, repeats=REPEATS):
    """The least seconds of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def lone_layer(version, isa, lanes, keep_order=True):
    """10^9 multiply-adds a second of one 1x1 convolution. Its numbers are zeros, which take as long as others."""
    plan = version.buffers.BufferPlan()
    x, out = (plan.take(name, (14, 14, channels), lanes) for name, channels in (("x", CHANNELS), ("y", OUT_CHANNELS)))
    step = version.codegen.Step("layer", version.ops.conv2d, x, out, {"kernel": 1})
    text = version.codegen.generate([step], isa)
    assert keep_order or PRAGMA in text
    library = version.compiler.Compiler().load(text if keep_order else text.replace(PRAGMA, ""), isa, cache=True)
    plan.allocate()
    pool = version.threads.Pool(library, version.buffers.aligned(step.weight_size), plan.memory, 1)
    return PIXELS * CHANNELS * OUT_CHANNELS / least(lambda: pool.run(0, 1), 20 * REPEATS) / 1e9


def measure():
    v6, v8 = load_version("v6_threads"), load_version("v8_int8")
    isa, inputs = v8.compiler.ISAS["avx2"], make_inputs(224, SYNTHETIC)
    tried = {FLOAT: lone_layer(v6, v6.compiler.ISAS["avx2"], 8)}
    for name, (run, pixels, keep_order) in TRIED.items():
        v8.ops.RUN = run
        tried[name] = lone_layer(v8, isa._replace(pixels=pixels), 16, keep_order)
    tiles = {}
    for pixels in TILES:
        v8.compiler.Compiler.isa = lambda self, name, pixels=pixels: isa._replace(pixels=pixels)
        model = v8.resnet50.ResNet50(inputs.weights, threads=1)
        tiles[pixels] = 1e3 * least(lambda model=model: model.forward(inputs.image))
        if pixels == isa.pixels:
            steps = {
                step.name: 1e3 * least(lambda n=n, model=model: model.run(n, n + 1))
                for n, step in enumerate(model.steps)
            }
    return {"machine": machine_info(), "tried": tried, "tiles": tiles, "steps": steps}


def kind(name, layer):
    """The row of a step in the table of parts."""
    if name == "quantize":
        return "the picture to bytes"
    if name == "fc" or layer is None:
        return "pools, subsampling, classifier"
    if layer.kernel == 7:
        return "stem, 7×7"
    if layer.kernel == 3:
        return f"3×3, stride {layer.stride}"
    return "1×1 that add the residual" if name.endswith("conv3") else "other 1×1"


def tried_table(results):
    rows = [[name, f"{rate:.0f}"] for name, rate in results["tried"].items()]
    lone = tabulate(rows, ["lone layer", "10⁹ multiply-adds a second"], tablefmt="pipe", colalign=("left", "right"))
    cells = [f"{milliseconds:.1f}" for milliseconds in results["tiles"].values()]
    headings = ["pixels of a tile", *map(str, results["tiles"])]
    whole = tabulate([["a picture, ms", *cells]], headings, tablefmt="pipe", disable_numparse=True)
    return f"\n{lone}\n\n{whole}\n\n{source(results)}\n\n"


def parts_table(results):
    """Time and rate by kind of step."""
    described, kinds = {layer.name: layer for layer in layers(224)}, {}
    for name, milliseconds in results["steps"].items():
        layer = described.get(name)
        work = layer.multiply_adds / 1e6 if layer else 0  # millions: over milliseconds that is 10^9 a second
        time_, done = kinds.get(kind(name, layer), (0, 0))
        kinds[kind(name, layer)] = time_ + milliseconds, done + work
    rows = [
        [name, f"{milliseconds:.1f}", f"{work / milliseconds:.0f}" if work > 10 else ""]
        for name, (milliseconds, work) in sorted(kinds.items(), key=lambda item: -item[1][0])
    ]
    headings = ["", "ms", "10⁹ multiply-adds a second"]
    text = tabulate(rows, headings, tablefmt="pipe", disable_numparse=True, colalign=("left", "right", "right"))
    return f"\n{text}\n\n{source(results)}\n\n"


def source(results):
    machine = results["machine"]
    return f"One thread of {machine['processor']} ({generation(machine)}), the least of {REPEATS} runs or more."


TABLES = {"tried": tried_table, "parts": parts_table}


def main():
    results = measure()
    results = json.loads(json.dumps(results), parse_float=lambda text: float(f"{float(text):.4g}"))
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, table in TABLES.items():
        ARTICLE.write_text(fill(ARTICLE.read_text("utf-8"), name, table(results)), encoding="utf-8")
        print(table(results))


if __name__ == "__main__":
    main()
