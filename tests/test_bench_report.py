"""What is made of the numbers: statistics, factors, tables, the README's sections, comparisons, pictures."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from io import StringIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench import compare, network, plots, readme, report, results
from bench.live import Display
from bench.race import group_name, ratio
from common.versions import ROOT, VERSIONS
from tests.bench_fakes import clean_environment

SECONDS = st.floats(1e-4, 1e3)
PEAK = {"method": "C", "cores": 2, "flops": 4e11, "flops_1": 2e11, "bandwidth": 2e10, "bandwidth_1": 1e10}
MACHINE = {"cpu": "a CPU", "cores": 2, "cores_in_machine": 4, "peak": PEAK, "python": "CPython 3.11", "numpy": "2.4",
           "blas": "a BLAS", "compiler": "cc 12", "os": "an OS"}
EXTRA = {"max_abs_error": 1e-6, "startup_seconds": 1.5, "peak_memory": 2**28, "arrays": 3, "array_bytes": 2**20,
         "faults": 12, "flops": network.flops(224)}


def latency_entry(name, seconds, threads=1, **extra):
    return results.entry(name, "latency", seconds, threads=threads, **(EXTRA | extra))


@pytest.fixture
def found():
    """A results file with every experiment in it; each version is twice as fast as the one before."""
    entries, failed = [], []
    for step, name in enumerate(VERSIONS):
        base = 4.0 / 2**step
        threads = 2 if name == "v6_threads" else 1
        entries.append(latency_entry(name, [base, base * 1.1, base * 0.9], threads))
        if step >= 2:
            parts = [{"layer": layer.name, "operator": operator, "seconds": base / 200}
                     for layer in network.layers(224) for operator in ("conv2d", "relu")]
            entries.append(results.entry(name, "profile", [base], parts=parts, threads=threads, flops=EXTRA["flops"]))
            for count in (1, 2):
                entries.append(results.entry(name, group_name(count), [base] * 4, threads=min(count, threads),
                                             rounds=[base, base * 2], flops=EXTRA["flops"], max_abs_error=0.0))
        for size in (64, 128):
            entries.append(results.entry(f"{name} {size}", "scaling, image size", [base], version=name,
                                         image_size=size, threads=1, flops=1.0))
    for count in (1, 2):
        entries.append(results.entry(f"v6 {count}", "scaling, threads", [1 / count], version="v6_threads",
                                     threads=count, image_size=224, flops=1.0))
    entries.append(results.entry("v6_threads, 1 × 2 threads", "throughput", [0.1], version="v6_threads", latency=0.1,
                                 threads=2, processes=1, peak_memory=2**28, max_abs_error=0.0, flops=1.0))
    return results.document(entries, failed, dict(MACHINE), image_size=224, threads=2, weights="a test")


def printed(table):
    console = Console(file=StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()


@given(seconds=st.lists(SECONDS, min_size=1, max_size=40))
def test_entry_has_the_statistics_of_its_times(seconds):
    stats = results.entry("x", "latency", seconds)["stats"]
    assert stats["data"] == seconds and stats["rounds"] == len(seconds)
    assert stats["median"] == pytest.approx(np.median(seconds)) and stats["min"] == min(seconds)
    assert min(seconds) <= stats["q1"] <= stats["median"] <= stats["q3"] <= max(seconds)
    assert stats["iqr"] == pytest.approx(stats["q3"] - stats["q1"])


def test_a_results_file_comes_back_as_it_went(found, tmp_path):
    results.save(found, tmp_path / "new" / "run.json")
    back = results.load(tmp_path / "new" / "run.json")
    assert back == results.rounded(found)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run.json"]


def test_pytest_benchmark_reads_our_files(found, tmp_path):
    results.save(found, tmp_path / "run.json")
    command = [sys.executable, "-m", "pytest_benchmark", "compare", str(tmp_path / "run.json"), "--columns=median"]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "v5_codegen" in done.stdout


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"benchmarks": 3}', "{"])
def test_what_is_no_results_file_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(results.ResultsError, match=r"run\.json"):
        results.load(path)
    done = subprocess.run([sys.executable, "-m", "bench", "compare", path, path], capture_output=True, text=True,
                          cwd=ROOT)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_rows_have_factors_and_share_of_the_peak_of_the_cores_in_use(found):
    rows = {row["name"]: row for row in report.rows(found)}
    assert rows["v1_loops"]["times_previous"] is None and rows["v1_loops"]["times_first"] == 1.0
    assert rows["v3_preload"]["times_previous"] == pytest.approx(2.0)
    assert rows["v5_codegen"]["times_first"] == pytest.approx(16.0)
    flops = EXTRA["flops"] / 0.25
    assert rows["v5_codegen"]["of_peak"] == pytest.approx(flops / 2e11)
    assert rows["v6_threads"]["of_peak"] == pytest.approx(2 * flops / 4e11)


def test_a_subset_has_no_factor_over_a_version_that_was_not_run():
    entries = [latency_entry(name, [1.0]) for name in ("v2_vectorized", "v3_preload")]
    rows = report.rows(results.document(entries, [], MACHINE, image_size=224))
    assert rows[0]["times_previous"] is None and rows[0]["times_first"] is None and rows[1]["times_previous"] == 1.0
    entries = [latency_entry(name, [1.0]) for name in ("v2_vectorized", "v5_codegen")]
    rows = report.rows(results.document(entries, [], MACHINE, image_size=224))
    assert rows[1]["times_previous"] is None


def test_latency_table_shows_all_rows_the_failures_and_the_published_figures(found):
    found["failed"] = [results.failure("v7_[bold]", "latency", "ValueError: [0] is wrong")]
    text = printed(report.latency_table(found))
    assert all(name in text for name in VERSIONS)
    assert "ValueError: [0] is wrong" in text
    assert "published" in text and "529" in text and "18,738" in text


@pytest.mark.parametrize(
    "make",
    [
        lambda found: report.race_table(found, "race, 2 threads"),
        lambda found: report.ratio_table(found, "race, 1 thread"),
        lambda found: report.profile_table(found, "v6_threads"),
        lambda found: report.operator_table(found, "v6_threads"),
        lambda found: report.throughput_table(found),
        lambda found: report.scaling_table(found, "scaling, threads", "threads"),
    ],
)
def test_every_table_names_its_contenders(found, make):
    assert any(name in printed(make(found)) for name in ("v6_threads", "relu"))


def test_ratio_is_the_median_of_the_rounds_own_ratios():
    one, other = ({"extra_info": {"rounds": rounds}} for rounds in ([1.0, 10.0, 3.0], [2.0, 5.0, 3.0, 99.0]))
    assert ratio(one, other) == 1.0  # of 0.5, 2 and 1; the drift from round to round drops out


def test_floor_is_the_larger_of_arithmetic_and_memory():
    first, *_, fc = network.layers(224)
    assert report.floor(first, PEAK, 1) == (first.flops / 2e11, "arithmetic")
    assert report.floor(fc, PEAK, 2) == (4 * 2048 * 1000 / 2e10, "memory")


def test_readme_sections_are_rewritten_and_nothing_else(found, tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- bench:table -->\nold\n<!-- /bench:table -->\nbetween\n"
                    "<!-- bench:race -->\n<!-- /bench:race -->\n<!-- bench:machine -->\n<!-- /bench:machine -->\nafter")
    readme.rewrite(path, found)
    once = path.read_text()
    assert once.startswith("before\n") and once.endswith("\nafter") and "\nbetween\n" in once and "old" not in once
    for name in VERSIONS:
        assert once.count(f"| `{name}` |") == 1
    assert "| `v3_preload` | 1,000 | 2× | 4× |" in once
    assert "a CPU" in once
    readme.rewrite(path, found)
    assert path.read_text() == once


def section(found, name):
    return readme.SECTIONS[name](found)


def test_an_articles_section_sets_a_step_beside_the_one_before(found):
    text = section(found, "v3")
    assert "| | `v2_vectorized` | `v3_preload` |" in text and "| one picture, ms | 2,000 | 1,000 |" in text
    assert "worth a factor of 2." in text and "a CPU" in text
    assert "v6_threads" not in text and "| one picture, ms | 4,000 |" in section(found, "v1")
    for benchmark in results.group(found, "latency"):
        if benchmark["name"] == "v3_preload":
            benchmark["stats"]["median"] = 2.5
    assert "slower**: 1.25 times" in section(found, "v3")


def test_an_articles_section_says_what_was_not_measured(found):
    found["benchmarks"] = [b for b in found["benchmarks"] if b["name"] != "v4_no_alloc"]
    found["failed"] = [results.failure("v4_no_alloc", "latency", "killed")]
    assert section(found, "v5") == section(found, "v4") == "Not measured: `v4_no_alloc`."


def test_sections_of_operators_and_ceilings(found):
    layers = len(network.layers(224))
    assert f"| `relu` | {1e3 * layers / 200:.0f} |" in section(found, "operators")  # v3: a second, 54 layers
    assert "| 1 core | 200 | 10.0 | 20 |" in section(found, "ceilings")
    assert "| 2 cores | 400 | 20.0 | 20 |" in section(found, "ceilings")
    found["machine_info"]["cores"] = 1
    assert section(found, "ceilings").count("core |") == 1


def test_section_of_threads_solves_amdahls_law(found):
    text = section(found, "threads")
    assert "| 1 | 1,000 | 1× | – |" in text and "| 2 | 500 | 2× | 0.0% |" in text
    next(b for b in found["benchmarks"] if b["name"] == "v6 2")["stats"]["median"] = 0.55
    assert "| 2 | 550 | 1.82× | 10.0% |" in section(found, "threads")
    found["benchmarks"] = []
    assert section(found, "threads").startswith("Not measured")


def test_section_of_winograd_sets_the_layers_and_the_network_side_by_side(found):
    assert section(found, "winograd").startswith("Not measured")
    for benchmark in list(found["benchmarks"]):
        if benchmark["name"] in ("v5_codegen", "v6_threads"):
            extra = benchmark["extra_info"] | {"rounds": [2 * s for s in benchmark["extra_info"].get("rounds", [])]}
            if benchmark["group"] == "profile":
                layers = [layer.name for layer in network.layers(224)]
                extra["parts"] = [{"layer": name, "operator": "layer", "seconds": 0.004} for name in layers]
            direct = results.entry(f"{benchmark['name'][:2]}_direct", benchmark["group"], [1.0], **extra)
            found["benchmarks"].append(direct)
    codegen = next(b for b in results.group(found, "profile") if b["name"] == "v5_codegen")
    codegen["extra_info"]["parts"] = [{"layer": part["layer"], "operator": operator, "seconds": 0.001}
                                      for part in codegen["extra_info"]["parts"] for operator in ("layer", "transform")]
    text = section(found, "winograd")
    assert "| 3 of 56×56×64 | 4 | 4 | 2 | 1.00 |" in text and "| 2 of 7×7×512 |" in text
    assert "on 1 thread: `v5_codegen` takes 0.50 of the time of `v5_direct`" in text
    assert "on 2 threads: `v6_threads` takes 0.50 of the time of `v6_direct`" in text


def test_the_race_says_how_the_fastest_engine_compares(found):
    assert "fastest engine" not in section(found, "race")
    for count in (1, 2):
        for name, seconds in (("openvino", 1.0), ("onnxruntime", 2.0)):
            found["benchmarks"].append(results.entry(name, group_name(count), [seconds], threads=count,
                                                     rounds=[seconds, seconds], flops=1.0, max_abs_error=0.0))
    text = section(found, "race")  # v5's rounds: 0.25 and 0.5 s; v6's half of that
    assert "On 1 thread `v5_codegen` is **3.00 times** as fast as the fastest engine, openvino" in text
    assert "On 2 threads `v6_threads` is **6.00 times** as fast" in text
    found["benchmarks"] = [b for b in found["benchmarks"] if b["name"] != "v5_codegen"]
    text = section(found, "race")
    assert "On 1 thread" not in text and "On 2 threads `v6_threads`" in text


@given(share=st.floats(0, 1), threads=st.integers(2, 64), alone=SECONDS)
def test_serial_share_comes_back(share, threads, alone):
    together = alone * (share + (1 - share) / threads)
    assert readme.serial_share(alone, together, threads) == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize("text", ["", "<!-- bench:table -->", "<!-- bench:nothing -->\n<!-- /bench:nothing -->",
                                  2 * "<!-- bench:table -->\n<!-- /bench:table -->\n"])
def test_readme_without_proper_markers_is_left_alone(found, tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(results.ResultsError, match=r"README\.md"):
        readme.rewrite(path, found)
    assert path.read_text() == text and len(list(tmp_path.iterdir())) == 1


def test_pages_with_sections_are_found(tmp_path):
    for name in ("README.md", "docs/1.md", "docs/2.md", "v1_loops/README.md", "other/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("nothing" if "2" in name else "<!-- bench:table -->\n<!-- /bench:table -->\n")
    found = [page.relative_to(tmp_path).as_posix() for page in readme.marked(tmp_path)]
    assert found == ["README.md", "docs/1.md", "v1_loops/README.md"]


def stats(seconds):
    return results.entry("x", "latency", seconds)["stats"]


@pytest.mark.parametrize(
    "before, after, relative, certain",
    [
        ([1.0, 1.01, 0.99], [1.5, 1.51, 1.49], 0.5, True),
        ([1.0, 1.01, 0.99], [0.8, 0.81, 0.79], -0.2, True),
        ([1.0, 1.3, 0.7], [1.2, 1.5, 0.9], 0.2, False),  # the quartiles overlap
        ([1.0, 1.0, 1.0], [1.02, 1.02, 1.02], 0.02, False),  # too little to matter
        ([100.0], [109.0], 0.09, False),  # timed once
        ([100.0], [150.0], 0.5, True),
    ],
)
def test_change_is_marked_where_it_is_more_than_noise(before, after, relative, certain):
    found, marked = compare.change(stats(before), stats(after))
    assert found == pytest.approx(relative) and marked is certain


@given(seconds=st.lists(SECONDS, min_size=1, max_size=20))
def test_a_run_has_not_changed_from_itself(seconds):
    assert compare.change(stats(seconds), stats(seconds)) == (0.0, False)


def test_comparison_lists_both_runs_and_names_what_differs(found, tmp_path):
    other = json.loads(json.dumps(found))
    other["benchmarks"] = [b for b in other["benchmarks"] if b["name"] != "v1_loops"]
    other["machine_info"]["cpu"] = "another CPU"
    results.save(found, tmp_path / "a.json")
    results.save(other, tmp_path / "b.json")
    command = [sys.executable, "-m", "bench", "compare", tmp_path / "a.json", tmp_path / "b.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "cpu: a CPU → another CPU" in done.stdout
    assert "only in one" in next(line for line in done.stdout.splitlines() if "v1_loops" in line)


def test_every_picture_is_drawn_with_a_background_and_from_the_numbers_alone(found, tmp_path, monkeypatch):
    drawn = plots.draw_all(found, tmp_path)
    assert {path.stem for path in drawn} == set(plots.PICTURES)
    for path in drawn:
        root = ElementTree.parse(path).getroot()
        assert root.tag.endswith("svg") and "fill: #ffffff" in path.read_text()
    monkeypatch.setattr(plots, "PICTURES", {"steps": plots.steps})
    (again,) = plots.draw_all(found, tmp_path / "again")
    assert again.read_bytes() == (tmp_path / "steps.svg").read_bytes()


def test_pictures_of_what_was_not_measured_are_not_drawn(tmp_path):
    found = results.document([latency_entry("v5_codegen", [1.0])], [], MACHINE, image_size=224, weights="a test")
    assert {path.stem for path in plots.draw_all(found, tmp_path)} == {"steps", "roofline"}
    assert plots.draw_all(results.document([], [], MACHINE, image_size=224), tmp_path) == []


def test_time_left_follows_the_last_stage():
    now = 0.0
    display = Display(Console(file=StringIO()), {"stem": 0.1, "layer1": 0.5}, lambda *_: "", clock=lambda: now)
    display.start("v1_loops", "runs")
    assert display.time_left() is None
    now = 5.0
    display.stage("stem")
    assert display.time_left() == pytest.approx(45.0)  # 10 % took 5 s
    now = 9.0
    display.stage("layer1")
    assert display.time_left() == pytest.approx(5.0)  # the last 40 % took 4 s
    now = 11.0
    assert display.time_left() == pytest.approx(3.0)
    now = 99.0
    assert display.time_left() == 0.0
    display.stage("unknown")
    assert display.time_left() == 0.0
