"""What is made of the numbers: statistics, factors, tables, the sections of Markdown files, pictures."""

import json
from functools import cache

import numpy as np
import pytest

from bench import experiments, machine, plots, quantities, results, sections, tables
from bench.text import known
from common.architecture import flops, layers
from common.versions import VERSIONS
from tests.bench_fakes import fake_inputs

PEAK = {"flops": 4e11, "flops_1": 2e11, "bandwidth": 2e10, "bandwidth_1": 1e10}
SOFTWARE = {"blas": 1e11, "calls": 2e6, "tensors": 1e5, "copied": 1e10, "turns": 2e7}


@pytest.fixture
def found(tmp_path, rng, monkeypatch):
    """A results file with every experiment in it; each version is twice as fast as the one before."""
    inputs = fake_inputs(tmp_path, rng)
    monkeypatch.setattr(results, "source", lambda weights: "a test")
    monkeypatch.setattr(results, "get_commit_info", cache(results.get_commit_info))  # 20 processes a call
    benchmarks = []

    def add(name, group, rounds, version, threads, size=224, **facts):
        extra = results.extra_info(version, inputs, rounds, threads=threads, **facts)
        extra |= {"flops": flops(size), "gflops": flops(size) / np.median(rounds) / 1e9, "image_size": size}
        benchmarks.append(results.entry(name, group, rounds, extra))

    tail = {"calls": 500, "p95": 0.06, "p99": 0.07}  # of those that were run often enough
    facts = {"max_abs_error": 1e-6, "startup_seconds": 1.5, "peak_memory": 2**28, "arrays": 3, "array_bytes": 2**20}
    for step, name in enumerate(VERSIONS):
        base, threads = 6.4 / 2**step, 1 if name < "v6" else 2
        rounds = [base] if step == 0 else [base, base * 2, base * 3]  # the machine drifts
        add(name, "race, 2 threads", rounds, name, threads, **facts | (tail if name == "v8_int8" else {}))
        add(f"{name}, 64 pixels", "scaling, image size", rounds, name, threads, 64)
        if step:
            add(name, "race, 1 thread", rounds, name, 1, **facts)
            add(f"{name}, 2 × 1 thread", "throughput", [base / 2] * 2, name, 1, **facts)
            parts = {layer.name: {"conv2d": base / 200} for layer in layers(224)}
            for layer in experiments.WINOGRAD[:13]:  # all but the last stage's
                parts[layer]["transform"] = base / 400
            more = {"products": base / 8} if name < "v5" else {}
            if name in ("v6_threads", "v7_winograd"):
                more["turns"] = {layer: [second / 100 for second in rounds] for layer in experiments.WINOGRAD}
            add(name, "profile", rounds, name, threads, parts=parts, rest=base / 100, **more)
    for count, seconds in ((1, 1.0), (2, 0.55)):
        add(f"v6_threads, {count}", "scaling, threads", [seconds] * 2, "v6_threads", count)
        add("openvino", experiments.race_group(count), [1.0, 2.0, 3.0], "openvino", count, **facts)
    add("openvino-int8", "race, 2 threads", [0.9, 1.5, 2.25], "openvino-int8", 2, **facts)
    for name, first in (("v6_threads", 0.7531), ("v8_int8", 0.75)):
        add(name, "accuracy", [0.001], name, 2, 64, accuracy=first, top5=0.9, calls=10_000)
    parts = {layer.name: {"conv2d": layer.flops / 1e9} for layer in layers(224)}  # 2 ns a turn
    for name, slower in (("as it is", 3), ("in order", 1)):
        slowed = {layer: {"conv2d": slower * part["conv2d"]} for layer, part in parts.items()}
        add(name, "objects", [slower * 8.0], "v1_loops", 1, parts=slowed, adjacent=[0.5 / slower] * 53)
    for isa, seconds in (("avx512", [1.0, 3.0]), ("avx2", [2.0, 6.0])):  # slow rounds, of multiply-adds, too
        peaks = [4 * flops(224) / second for second in seconds]
        add(f"v7, {isa}", "instruction sets", seconds, "v7_winograd", 1, isa=isa, peaks=peaks)
        add(f"v8, {isa}", "instruction sets", [second / 5 for second in seconds], "v8_int8", 1, isa=isa)
    for batch, seconds in ((1, 0.5), (8, 0.4)):
        add(f"openvino, batch of {batch}", "batches", [seconds] * 3, "openvino", 2, batch=batch)
    new = results.update(tmp_path / "run.json", benchmarks, PEAK | SOFTWARE, inputs)
    return new | {"settings": {"image_size": 224}, "machine_info": new["machine_info"] | {"cores": 2}}


def test_update_replaces_what_was_measured_again_and_keeps_the_best_peak(found, tmp_path, rng):
    inputs, path = fake_inputs(tmp_path), tmp_path / "run.json"
    failed = [{"group": "profile", "name": "v2_vectorized", "reason": "killed"}]
    new = results.update(path, failed, PEAK | {"flops": 1.0, "flops_1": 9e11, "new": 1.0}, inputs)
    assert new["failed"] == failed and results.load(path) == new
    assert new["peak"] == PEAK | {"flops_1": 9e11, "new": 1.0}
    assert [b["group"] for b in new["benchmarks"]] == [
        b["group"] for b in found["benchmarks"] if b["group"] != "profile"
    ]
    with pytest.raises(results.ResultsError, match=r"run\.json: another processor was measured"):
        path.write_text(path.read_text().replace('"processor": "', '"processor": "not '))
        results.update(path, failed, PEAK, inputs)


def test_rows_have_factors_spread_and_share_of_the_peak_of_the_cores_in_use(found):
    lines = {
        line.split("|")[1].strip(): line for line in tables.all_steps(found).text("pipe").splitlines() if "|" in line
    }
    cells = {name: [cell.strip() for cell in line.split("|")[2:-1]] for name, line in lines.items()}
    assert cells["`v1_loops`"][:3] == ["6,400 (one run)", "–", "1×"]
    assert cells["`v2_vectorized`"][:3] == ["6,000 ± 2,000", "1×", "1×"]  # medians, since v1 ran once
    assert cells["`v3_preload`"][1] == "2.00×" and cells["`v7_winograd`"][1:3] == ["2.00×", "≈ 32×"]
    rate = flops(224) / 0.4 / 1e9  # known to a quarter, the spread of the rounds
    assert cells["`v6_threads`"][3:6] == [f"{rate:.0f}", f"{rate / 4:.1f} %", "10"]
    assert cells["`v5_codegen`"][4] == f"{rate / 2 / 2:.1f} %"
    assert cells["`v5_codegen`"][6:] == ["3", "256", "1.50", "1e-06"]


def test_ratio_is_the_median_of_the_rounds_own_ratios():
    one, other = ({"rounds": 3, "data": rounds} for rounds in ([1.0, 10.0, 3.0], [2.0, 5.0, 3.0]))
    assert quantities.ratio(one, other) == 1.0  # of 0.5, 2 and 1; the drift from round to round drops out


@pytest.mark.parametrize(
    "name, expected",
    [
        ("v3", "| one picture, ms | 6,000 ± 2,000 | 3,200 ± 1,200 |"),
        (
            "race",
            "`v5_codegen` is **2.50 times**, `v7_winograd` is **10.00 times** and `v9_ozaki` is **40.00 times** as",
        ),
        ("race", "| `v6_threads` | float32 | 2 | 400 ± 150 | – | – | 8.00 | 256 | 1e-06 | 75.31 % |"),
        ("race", "| – | – | 4.00 | 256 | 1e-06 | – |"),
        ("race", "| `v8_int8` | int8 | 2 | 100 ± 40 | 60.0 | 70.0 | 1.00 | 256 | 1e-06 | 75.00 % |"),
        ("race", "Accuracy of the small model of weights/demo on 10,000 pictures, seen at 64×64"),
        ("accuracy", "| `v8_int8` | int8 | 75.00 % | 90.00 % | -0.31 | +0.00 |"),
        ("race", "the fastest engine in int8 is openvino-int8; `v8_int8` is **15.00 times** as fast."),
        ("v8", "| | `v6_threads` | `v8_int8` |"),
        ("operators", "| `conv2d` | 864 | 432 | 216 |"),
        ("ceilings", "| 2 cores | 400 | 20.0 | 20.0 |"),
        ("threads", "| `v6_threads` | 2 | 550 ± 0 | 1.82× | 10 % |"),  # Amdahl's law
        ("winograd", "| 3 of 56×56×64 | 1.50 | 0.750 | 0.250 | 0.500 |"),
        ("winograd", "Together they save 26 ms of a picture; in the race it was 200 ms."),
        ("predicted", "| `v1_loops` | interpreter | 200,000 | 6,400 | **-97 %** |"),
        ("predicted", "| | convolutions, objects in order | 200,000 | 8,200 |"),
        ("objects", "| `layer4` | 809 | 6.00 | 17 % | 2.00 | 50 % |"),
        ("objects", "All convolutions: as it is 25 s, in order 8.2 s."),
        ("predicted", "| | passes | 54 | 280 | **+431 %** |"),
        ("predicted", "| `v3_preload` | products | 82 | 200 | **+145 %** |"),
        ("constants", "| a call of NumPy | 0.500 | µs |"),
        ("amounts", "| `v5_codegen` | 8.20 | 243 | 34 | 10 | 200 |"),
        ("batches", "| `openvino` | 2.00 | 2.50 |"),
        ("isas", "| `v7_winograd` | 1 | avx512 | 2,000 ± 1,000 | 21.8 | 25 % (effective) | 2.00× |"),
        ("isas", "| `v7_winograd` | 1 | avx2 | 4,000 ± 2,000 | 10.9 | 25 % (effective) | – |"),
        ("throughput", "| v7_winograd, 2 × 1 thread | 20.0 |"),
    ],
)
def test_sections(found, name, expected):
    text = " ".join(sections.SECTIONS[name](found).text("pipe").split())
    assert expected in text


def test_a_layer_beside_its_floor(found):
    lines = [" ".join(line.split()) for line in tables.profile(found, "v5_codegen").text("pipe").splitlines() if line]
    rows = {line.split()[1]: line for line in lines if line.startswith("| ")}
    assert rows["conv1"].endswith("| 2.00 | 0.2% | 118 | 1.69 | arithmetic | 0 |"), rows["conv1"]
    assert rows["fc"].endswith("| 2.05 | 2.44 | memory | 0 |"), rows["fc"]


def test_a_floor_is_of_the_peak_in_the_profiles_own_rounds(found):
    """flops and the times in the table are the same; the peak of these rounds is half of the best."""
    (profiled,) = (b for b in found["benchmarks"] if (b["group"], b["name"]) == ("profile", "v5_codegen"))
    profiled["extra_info"]["peaks"] = [9e9, PEAK["flops_1"] / 2, 9e12]
    assert "| 0.85 | arithmetic |" in " ".join(tables.profile(found, "v5_codegen").text("pipe").split())


def test_without_labelled_pictures_there_is_no_accuracy(found):
    found["benchmarks"] = [b for b in found["benchmarks"] if b["group"] != "accuracy"]
    assert "Accuracy:" not in tables.race(found).text("pipe") and not tables.accuracy(found).rows


def test_what_failed_is_said(found):
    found["failed"] = [{"group": "race, 2 threads", "name": "v4_no_alloc", "reason": "killed"}]
    found["benchmarks"] = [b for b in found["benchmarks"] if b["name"] != "v4_no_alloc"]
    for name in ("table", "v4", "v5", "race"):
        assert "Not timed: `v4_no_alloc` (race, 2 threads): killed." in sections.SECTIONS[name](found).text("pipe")


def test_sections_are_rewritten_and_nothing_else(found, tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- bench:table -->\nold\n<!-- /bench:table -->\nafter")
    sections.rewrite(path, found)
    once = path.read_text()
    assert once.startswith("before\n") and once.endswith("\nafter") and "old" not in once and "`v7_winograd`" in once
    sections.rewrite(path, found)
    assert path.read_text() == once and sections.marked(tmp_path) == [path]
    for wrong in ("<!-- bench:table -->", "<!-- bench:nothing -->\n<!-- /bench:nothing -->\n"):
        path.write_text(wrong)
        with pytest.raises(results.ResultsError, match=r"README\.md"):
            sections.rewrite(path, found)
        assert path.read_text() == wrong


def test_every_picture_is_drawn_from_the_numbers_alone(found, tmp_path):
    drawn = plots.draw_all(found, tmp_path)
    assert [path.stem for path in drawn] == ["steps", "race", "roofline", "roofline_numpy", "layers", "scaling"]
    before = [path.read_bytes() for path in drawn]
    assert [path.read_bytes() for path in plots.draw_all(found, tmp_path)] == before
    assert plots.draw_all(found | {"benchmarks": []}, tmp_path) == []


def test_files_are_named_by_processor_and_all_are_in_one_table(found, tmp_path, monkeypatch):
    epyc = {"processor": "AMD EPYC", "family": 25, "model": 1}
    assert machine.slug(epyc) == "amd-epyc-family-25-model-1" != machine.slug(epyc | {"model": 17})
    xeon = {"processor": "Intel(R) Xeon(R) Processor @ 2.50GHz", "family": 6, "model": 85}
    assert machine.slug(xeon) == "intel-xeon-2-50ghz-family-6-model-85"
    assert machine.slug({"processor": "Apple M2", "family": None, "model": None}) == "apple-m2"
    directory = tmp_path / "results"
    directory.mkdir()
    monkeypatch.setattr(results, "MACHINES", directory)
    with pytest.raises(results.ResultsError, match="no results in"):
        results.of_the_readme()
    for info, year, others in ((epyc, 2001, found["benchmarks"]), (xeon, 2002, found["benchmarks"][:1])):
        info, date = found["machine_info"] | info | {"instruction_sets": ["fma"]}, f"{year}-01-01"
        path = directory / f"{machine.slug(info)}.json"
        path.write_text(json.dumps(found | {"machine_info": info, "datetime": date, "benchmarks": others}))
    assert results.of_the_readme() == path
    lines = sections.SECTIONS["isas_v8"]({}).text("pipe").splitlines()[2:4]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines] == [
        ["AMD EPYC (family 25, model 1), 2001-01-01", "1", "avx512", "400 ± 200", "2.00×"],
        ["", "1", "avx2", "800 ± 400", "–"],
    ]
    lines = sections.SECTIONS["machines"]({}).text("pipe").splitlines()[2:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[:2] for row in cells] == [
        ["Intel(R) Xeon(R) Processor @ 2.50GHz (family 6, model 85; fma), 2002-01-01", "2"],
        ["AMD EPYC (family 25, model 1; fma), 2001-01-01", "1"],
        ["AMD EPYC (family 25, model 1; fma), 2001-01-01", "2"],
    ]
    assert cells[2][2:6] == ["200", "2,000", "openvino", "10.0"] and cells[0][2:6] == ["–"] * 4


def test_where_version_9_has_tiles_it_multiplies_bytes(found):
    info = found["machine_info"]
    tiles, vectors = (
        found | {"machine_info": info | {"instruction_sets": sets}} for sets in (["amx_int8", "avx512f"], ["avx512f"])
    )
    rows = tables.race_with_tiles([vectors, tiles]).rows
    names = ["`v6_threads`", "`v7_winograd`", "`v9_ozaki`", "`openvino`"]
    assert [row[1:3] for row in rows] == [[str(count), name] for count in (1, 2) for name in names]
    assert [row[6] for row in rows[4:]] == ["8.00", "4.00", "1.00", "40.0"]
    assert tables.race_with_tiles([vectors]).notes == ["Not measured: `python -m bench race`."]
    of_tiles, of_vectors = (tables.amounts(results).rows[8] for results in (tiles, vectors))
    assert of_tiles[-1] == "–" != of_vectors[-1] and of_vectors[1:4] == tables.amounts(vectors).rows[5][1:4]


@pytest.mark.parametrize(
    ("value", "spread", "expected"),
    [
        (171.2, 12.6, "171 ± 13"),
        (152.4, 23.0, "150 ± 20"),
        (66.7, 8.18, "67 ± 8"),
        (6400, 1600, "6,400 ± 1,600"),
        (1.1537, 0.0389, "1.15 ± 0.04"),
        (0.5, 0.0996, "0.50 ± 0.10"),
    ],
)
def test_numbers_are_rounded_to_what_is_known(value, spread, expected):
    assert " ± ".join(known(value, spread)) == expected


def test_results_without_the_new_parts_leave_gaps_and_no_error(found, tmp_path):
    for benchmark in found["benchmarks"]:
        for key in ("turns", "products"):
            benchmark["extra_info"].pop(key, None)
    found["benchmarks"] = [b for b in found["benchmarks"] if b["group"] != "batches"]
    for name in sections.SECTIONS:
        assert isinstance(sections.SECTIONS[name](found).text("pipe"), str)
    assert "| 3 of 56×56×64 | 1.50 | 0.750 | 0.250 | – |" in " ".join(tables.winograd(found).text("pipe").split())
    assert plots.draw_all(found, tmp_path)
