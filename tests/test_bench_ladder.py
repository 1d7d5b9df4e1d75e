"""The ladder: every rung computes its layer, what is wrong is not timed, and tables and pictures follow the results."""

import subprocess
from collections import Counter

import numpy as np
import pytest

from bench import caches, kernel_tables, kernels, ladder, plots, quantities, results, sections
from bench.check import WrongOutput
from bench.kernels import V5, V8, Kernel, Task, build, hot_loop
from bench.ladder import RUNGS
from bench.text import digits
from common.architecture import Layer
from tests.bench_fakes import fake_inputs
from tests.codegen_support import own_cache as own_cache
from tests.outside_support import CROSS, EMULATOR

HERE = list(V5.compiler.Compiler().isas)
# Small, with rows that no tile divides; of 32 channels at least, the panel of AVX-512.
SMALL = {
    "3x3": Layer("conv2", "bn", (5, 19, 32), (5, 19, 64), 3),
    "1x1": Layer("conv3", "bn", (5, 19, 32), (5, 19, 64)),
}


@pytest.mark.parametrize("name", RUNGS)
def test_every_rung_computes_its_layer(name, rng):
    """On the best instruction set and on the plainest."""
    rung = RUNGS[name]
    for isa, layer in zip((HERE[0], HERE[-1]), rng.permutation(["3x3", "1x1"])):
        task = Task(SMALL[layer], rng)
        kernel = build(rung, task, isa)
        if kernel is None:  # Winograd's is for 3x3 only; version 8 may need an instruction that is not there
            assert (name, layer) == ("v7", "1x1") or (name == "v8" and isa not in V8.compiler.Compiler().isas)
        else:
            assert 0 < kernel.check(task, rung.tolerance) <= rung.tolerance
            kernel.run()
            assert hot_loop(kernel.assembly)


@pytest.mark.parametrize(("pixels", "vectors"), [(1, 1), (7, 4), (14, 2)])
def test_tiles_of_other_sizes(pixels, vectors, rng):
    task = Task(SMALL["1x1"], rng)
    build(RUNGS["fused"], task, HERE[-1], pixels=pixels, vectors=vectors).check(task, 1e-5)


MAIN = r"""
#include <stdio.h>
#include <stdlib.h>
static float *load(const char *path) {
    FILE *file = fopen(path, "rb");
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    float *floats = aligned_alloc(64, (size + 127) / 64 * 64);
    rewind(file);
    if (fread(floats, 1, size, file) != (size_t)size) exit(2);
    fclose(file);
    return floats;
}
void layer(void *, void *, void *, void *, void *);
int main(void) {
    float *out = load("4");
    layer(load("0"), load("1"), load("2"), load("3"), out);
    FILE *file = fopen("4", "wb");
    fwrite(out, 4, OUT * HEIGHT * WIDTH, file);
    return fclose(file);
}
"""


@pytest.mark.skipif(not (CROSS and EMULATOR), reason="no cross compiler and emulator for ARM")
@pytest.mark.parametrize("layer", SMALL)
def test_every_rung_on_arm(layer, rng, tmp_path):
    task, isa = Task(SMALL[layer], rng), V5.compiler.ISAS["neon"]
    (tmp_path / "main.c").write_text(MAIN)
    height, width, channels = task.layer.out_shape
    ran = Counter()
    for name, rung in RUNGS.items():
        source = kernels.RUNGS_AT / f"{rung.source}.c"
        if source.is_file():
            arrays = kernels.rung_arrays(rung, task, isa, 2)
            arrays[-1].fill(np.nan)
            for number, array in enumerate(arrays):
                array.tofile(tmp_path / str(number))
            defined = [f"-D{key}={value}" for key, value in kernels.defines(rung, task, isa).items()]
            command = [*CROSS, *rung.flags, *defined, "-ffp-contract=fast", "-static", "-o", "layer", "main.c", source]
            subprocess.run(command, cwd=tmp_path, check=True)
            subprocess.run([EMULATOR, "./layer"], cwd=tmp_path, check=True)
            out = np.fromfile(tmp_path / "4", np.float32).reshape(-1, height * width, arrays[-1].shape[-1])
            out = out.transpose(1, 0, 2).reshape(height, width, channels)
            error = np.abs(out - task.right).max() / task.right.max()
            assert np.isfinite(out).all() and error <= 1e-5, name
            ran[rung.source] += 1
    assert len(ran) == 8


@pytest.mark.parametrize("wrong", ["nothing", "NaN", "zeros", "a channel missing", "channels swapped", "no ReLU"])
def test_what_is_wrong_is_not_timed(wrong, rng):
    task, out = Task(SMALL["3x3"], rng), np.empty(SMALL["3x3"].out_shape)
    one, other = task.right.sum(axis=(0, 1)).argsort()[-2:]  # ReLU may leave a channel nothing

    def run():
        if wrong != "nothing":
            out[...] = task.right
        if wrong == "NaN":
            out[1, 2, 3] = np.nan
        elif wrong == "zeros":
            out[...] = 0
        elif wrong == "a channel missing":
            out[..., one] = 0
        elif wrong == "channels swapped":
            out[..., [one, other]] = out[..., [other, one]]
        elif wrong == "no ReLU":
            out[out == 0] = -0.1

    with pytest.raises(WrongOutput):
        Kernel(lambda: out.fill(np.nan), run, lambda: out, "", ()).check(task, 1e-3)


X86 = """
layer:
.L2:
	xorl	%eax, %eax
.L3:
	vmovups	(%rdi), %ymm1	# a comment
	vfmadd231ps	(%rsi), %ymm1, %ymm0
	vfmadd231ps	32(%rsi), %ymm1, %ymm2
	.loc 1 2 3
	jne	.L3
.L4:
	vmulps	%ymm1, %ymm1, %ymm1
	jne	.L4
	jne	.L2
	ret
"""
ARM = """
.L3:
	ldr	q1, [x0], 16
	fmla	v0.4s, v1.4s, v2.4s
	cmp	x0, x1
	bne	.L3
"""


@pytest.mark.parametrize(("text", "count", "last"), [(X86, 4, "jne .L3"), (ARM, 4, "bne .L3"), ("\tret\n", 0, None)])
def test_the_loop_that_multiplies_most(text, count, last):
    loop = hot_loop(text)
    assert len(loop) == count and (loop[-1:] or [None]) == [last]


def test_what_was_measured_is_shown(rng, tmp_path, monkeypatch):
    """Two rungs, one of which is wrong, a few loads: entries, tables, both pictures."""
    monkeypatch.setattr(results, "source", lambda weights: "a test")
    monkeypatch.setattr(ladder, "layers", lambda size: SMALL.values())
    monkeypatch.setattr(ladder, "LAYERS", {name: layer.name for name, layer in SMALL.items()})
    monkeypatch.setattr(ladder, "TILE_PIXELS", (2, 3))
    monkeypatch.setattr(ladder, "RUNGS", {name: RUNGS[name] for name in ("order", "blocks", "fused")})
    monkeypatch.setitem(ladder.RUNGS, "blocks", RUNGS["blocks"]._replace(tolerance=-1.0))
    monkeypatch.setattr(caches, "SIZES", [4096, 8192, 1 << 20])
    monkeypatch.setattr(caches, "PAGES", [8, 16])
    inputs = fake_inputs(tmp_path, rng)
    found = ladder.climb(inputs, HERE[-1:], rounds=2) + caches.survey(inputs, rounds=1)
    peak = {"flops": 2e11, "flops_1": 1e11, "bandwidth": 2e10, "bandwidth_1": 1e10}
    found = results.update(tmp_path / "run.json", found, peak, inputs)
    assert {item["name"] for item in found["failed"]} == {"3x3 blocks", "1x1 blocks"}
    rows = {name: line for line in kernel_tables.ladder(found).text("pipe").splitlines() for name in RUNGS
            if line.startswith(f"| {RUNGS[name].title} ")}  # fmt: skip
    assert set(rows) == {"order", "fused"} and rows["fused"].count("×") == 2
    measured = quantities.ladder_rows(found)["order"]["3x3"]
    assert f"{digits(measured['gflops'] * 1e9 / 1e11, 0.01)} %" in rows["order"]
    assert "Not timed: `3x3 blocks`" in kernel_tables.ladder(found).text("pipe")
    assert measured["assembly"][0] in kernel_tables.rung(found, "order").text("pipe")
    assert "Not measured" in kernel_tables.rung(found, "v8").text("pipe")
    for name in ("tiles", "chains", "cache_sizes", "cache_sets", "cache_pages", "cache_strides", "ladder_everywhere"):
        assert sections.SECTIONS[name](found).rows, name
    assert {path.name for path in plots.draw_all(found, tmp_path)} == {"ladder.svg", "caches.svg"}


def test_a_chain_visits_every_place_once(rng):
    memory = caches.Memory(1 << 20, huge=False)
    places = range(0, 1 << 14, 64)
    place, seen = memory.chain(places, rng), []
    for _ in places:
        seen.append(place - memory.bytes.ctypes.data)
        place = int(memory.bytes[seen[-1] : seen[-1] + 8].view(np.uint64)[0])
    assert sorted(seen) == list(places) and place - memory.bytes.ctypes.data == seen[0]
