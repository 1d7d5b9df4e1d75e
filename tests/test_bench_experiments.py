"""Race, throughput, scaling and profile on fake versions; the machine's ceilings; inputs; the command line."""

import json
import shutil
import subprocess
import sys
from functools import partial
from io import StringIO
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from bench import commands, inputs, network, peak, profile, race, scaling, throughput
from bench.__main__ import named
from bench.reference import reference_logits
from common.versions import DIRECT, ROOT, VERSIONS
from bench.worker import Worker, WorkerError
from tests.bench_fakes import clean_environment, make_version, write_answers

IMAGE = np.zeros((32, 32, 3), np.float32)


@pytest.fixture
def fakes(tmp_path, rng, monkeypatch):
    """A directory of fakes that the experiments look for versions in, and (directory, image, right logits)."""
    right = write_answers(tmp_path, rng)
    for module in (race, throughput, scaling):
        monkeypatch.setattr(module, "Worker", partial(Worker, root=tmp_path))
    return tmp_path, (tmp_path, IMAGE, right)


def test_race_interleaves_checks_every_turn_and_loses_only_who_fails(fakes):
    root, what = fakes
    make_version(root, "slow", "time.sleep(0.02)\nreturn y")
    make_version(root, "fast", "time.sleep(0.005)\nreturn y")
    make_version(root, "wrong", "return y + 1")
    make_version(root, "wrong_later", "return y if self.calls < 5 else y + 1")
    make_version(root, "dies_later", "if self.calls == 5: os._exit(9)\nreturn y")
    said = []
    contest = race.Race(*what, 1, said.append)
    contest.run(["slow", "fast", "wrong", "wrong_later", "dies_later"], rounds=4)
    benchmarks, failed = contest.entries(flops=100)
    assert [b["name"] for b in benchmarks] == ["slow", "fast"]
    reasons = {f["name"]: f["reason"] for f in failed}
    assert set(reasons) == {"wrong", "wrong_later", "dies_later"} and "exit status 9" in reasons["dies_later"]
    slow, fast = benchmarks
    assert len(slow["extra_info"]["rounds"]) == 4 and slow["stats"]["rounds"] == 4 * (race.PICTURES - 1)
    assert slow["stats"]["min"] >= 0.02 and slow["group"] == "race, 1 thread"
    assert race.ratio(slow, fast) == pytest.approx(1 / race.ratio(fast, slow), rel=0.5) and "round 4 of 4" in said


def test_race_that_is_interrupted_keeps_its_rounds(fakes):
    root, what = fakes
    make_version(root, "plain")

    def interrupt(text):
        if text == "round 2 of 9":
            raise KeyboardInterrupt

    contest = race.Race(*what, 1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        contest.run(["plain"], rounds=9)
    (benchmark,), failed = contest.entries(flops=1)
    assert len(benchmark["extra_info"]["rounds"]) == 2 and failed == []


def test_throughput_adds_up_processes_that_work_at_the_same_time(fakes):
    root, what = fakes
    make_version(root, "sleeper", "time.sleep(0.02)\nreturn y")  # sleeping processes share no core
    make_version(root, "wrong", "return y + 1")
    found = []
    wanted = [("sleeper", 1, 1), ("sleeper", 3, 1), ("wrong", 2, 1)]
    throughput.measure(wanted, what, rounds=2, duration=0.3, flops=1, say=str, report=lambda *all_: found.extend(all_))
    (alone, together), failed = found
    assert [f["name"] for f in failed] == ["wrong, 2 × 1 thread"]
    assert alone["extra_info"]["latency"] >= 0.02 and together["extra_info"]["latency"] >= 0.02
    assert alone["stats"]["median"] >= 0.02 > together["stats"]["median"] >= 0.02 / 3
    assert together["extra_info"]["processes"] == 3 and together["stats"]["rounds"] == 2


def test_arrangements_use_every_core():
    found = throughput.arrangements(["v4_no_alloc", "v6_threads", "openvino"], 4)
    together = [("v6_threads", 1, 4), ("openvino", 1, 4)]
    assert found == [*together, ("v4_no_alloc", 4, 1), ("v6_threads", 4, 1), ("openvino", 4, 1)]
    assert throughput.arrangements(["v6_threads"], 1) == [("v6_threads", 1, 1)]


def test_scaling_measures_every_point_and_leaves_out_what_would_take_too_long(fakes, monkeypatch):
    root, (_, _, right) = fakes
    monkeypatch.setattr(scaling, "reference", lambda weights_dir, image: right)
    monkeypatch.setattr(scaling, "LONGEST", 0.3)
    make_version(root, "quick")
    make_version(root, "slow", "time.sleep(0.02 * image.shape[0] ** 2 / 32 ** 2)\nreturn y")
    make_version(root, "wrong", "return -y")
    points = scaling.Scaling(root, budget=0.01, say=str)
    points.sizes(["quick", "slow", "wrong"], [256, 32], threads=1)
    points.threads(["quick"], 32, [1, 2])
    assert [(b["extra_info"]["version"], b["extra_info"]["image_size"]) for b in points.benchmarks] == [
        ("quick", 32), ("quick", 256), ("slow", 32), ("quick", 32), ("quick", 32)]
    assert [f["name"] for f in points.failed] == ["wrong, 32 pixels, 1 thread"]


@pytest.mark.parametrize("counts", [[1], [1, 2], [1, 2, 3, 4, 5], [1, 2, 3, 4, 6, 8, 12, 16]])
def test_thread_counts(counts):
    assert scaling.thread_counts(counts[-1]) == counts


def test_trace_gives_each_operator_to_the_convolution_before_it():
    now = 0.0

    def operator(seconds):
        nonlocal now
        now += seconds

    module = SimpleNamespace(conv2d=operator, relu=operator, max_pool=operator, fully_connected=operator)
    trace = profile.Trace(module, clock=lambda: now)
    for name, seconds in (("conv2d", 4), ("relu", 1), ("max_pool", 8), ("conv2d", 16), ("relu", 2), ("relu", 3),
                          ("fully_connected", 5)):
        getattr(module, name)(seconds)
    first, second, *_ = (layer.name for layer in network.layers(32))
    assert trace.take_layers(32) == {(first, "conv2d"): 4, (first, "relu"): 1, ("maxpool", "max_pool"): 8,
                                     (second, "conv2d"): 16, (second, "relu"): 5, ("fc", "fully_connected"): 5}
    assert trace.take_layers(32) == {}


@pytest.mark.parametrize("name", [*VERSIONS[1:], *DIRECT])
def test_profile_finds_every_layer_of_a_version(name, small_weights_dir):
    image = inputs.picture(64)
    with Worker(name, small_weights_dir, image, threads=2, trace=True) as worker:
        worker.run(1)
        totals, parts = worker.profile(2)
    assert len(totals) == 2 and min(totals) > 0
    assert {layer.name for layer in network.layers(64)} <= {part["layer"] for part in parts}
    assert all(part["seconds"] >= 0 for part in parts)
    assert any(part["operator"] == "transform" for part in parts) == (name in VERSIONS[4:])


@pytest.mark.parametrize("kernels", [peak.native_kernels, peak.numpy_kernels])
def test_ceilings_count_what_was_done(kernels, monkeypatch):
    monkeypatch.setattr(peak, "BUFFER", 1 << 16)
    monkeypatch.setattr(peak, "TRIALS", 2)
    work, method = kernels()
    assert method and work["bandwidth"](1, 2) == 2 * (1 << 16)  # half of the buffer, in bytes
    assert work["flops"](0, 1) >= 1e9
    for cores in (1, 2):
        rate = peak.best_rate(work["flops"], cores)
        assert np.isfinite(rate) and rate > 1e8


def test_best_rate_is_the_best_trial():
    ticks = iter(np.cumsum([0] + [5, 2, 9] * peak.TRIALS).tolist())
    assert peak.best_rate(lambda part, parts: 3.0, 2, clock=lambda: next(ticks)) == 6.0 / 2.0


def test_the_reference_waits_for_a_quiet_machine_but_not_for_ever(monkeypatch):
    """The peak is the best of all measurements; waiting ends when one is near it, or when patience is at an end."""
    run = commands.Run.__new__(commands.Run)
    run.threads, run.console, run.machine = 2, Console(file=StringIO()), {"peak": {}}
    rates = iter([100.0, 50.0, 99.0, 50.0, 50.0, 50.0])
    monkeypatch.setattr(commands, "measured_peak", lambda cores: dict.fromkeys(("flops", "flops_1"), next(rates)))
    run.measure_peak()
    run.wait_for_quiet(clock=lambda: 0.0)
    assert next(rates) == 50.0 and run.machine["peak"] == {"flops": 100.0, "flops_1": 100.0}
    ticks = iter([0.0, 60.0, 121.0])
    run.wait_for_quiet(clock=lambda: next(ticks))
    assert list(rates) == [] and list(ticks) == []


def test_compiler_is_the_users_choice_and_may_be_missing(monkeypatch):
    monkeypatch.setenv("CC", "my cc --flag")
    assert peak.find_compiler() == ["my", "cc", "--flag"]
    monkeypatch.delenv("CC")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "ziglang", None)
    assert peak.find_compiler() is None and peak.native_kernels() is None
    monkeypatch.setitem(sys.modules, "ziglang", SimpleNamespace())
    assert peak.find_compiler() == [sys.executable, "-m", "ziglang", "cc"]
    monkeypatch.setenv("CC", "false")
    assert peak.native_kernels() is None


def test_weights_are_made_up_once_if_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "WEIGHTS", tmp_path / "none")
    monkeypatch.setattr(inputs, "SYNTHETIC", tmp_path / "synthetic")
    assert inputs.weights_directory() == tmp_path / "synthetic"
    made = (tmp_path / "synthetic" / "manifest.json").stat().st_mtime_ns
    assert inputs.source(inputs.weights_directory()).startswith("synthetic")
    assert (tmp_path / "synthetic" / "manifest.json").stat().st_mtime_ns == made
    assert not (tmp_path / "none").exists()


def test_damaged_weights_are_an_error_in_one_line(small_weights_dir, tmp_path):
    damaged = shutil.copytree(small_weights_dir, tmp_path / "damaged")
    (damaged / "fc.bias.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(inputs.InputError, match="damaged"):
        inputs.reference(damaged, inputs.picture(32))
    (damaged / "manifest.json").write_text("{")
    with pytest.raises(inputs.InputError, match=r"export_weights\.py synthetic"):
        inputs.weights_directory(damaged)


def bench(*arguments):
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=100)


def test_the_command_measures_real_versions(small_weights_dir, tmp_path):
    out = tmp_path / "run.json"
    done = bench("run", "v5", "v3", "--size", 32, "--budget", 0.1, "--weights", small_weights_dir, "--out", out)
    assert done.returncode == 0, done.stderr
    stored = json.loads(out.read_text())
    assert [b["name"] for b in stored["benchmarks"]] == ["v3_preload", "v5_codegen"]
    assert "-ffp-contract=fast" in stored["benchmarks"][1]["extra_info"]["compiled_with"]
    largest = np.abs(reference_logits(small_weights_dir, inputs.picture(32))).max()
    for benchmark in stored["benchmarks"]:
        assert 0 < benchmark["extra_info"]["max_abs_error"] <= 1e-4 * largest
    info = stored["machine_info"]
    assert all(info[key] for key in ("cpu", "cores", "python", "numpy", "blas", "os", "peak"))
    assert stored["settings"]["image_size"] == 32 and len(stored["commit_info"]["id"]) >= 7


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "v7"], "there is no 'v7'; choose from v1_loops"),
        (["run", "--size", "31"], "at least 32"),
        (["race", "--threads", "0"], "0 is not at least 1"),
        (["run", "--threads", "100000"], "this process may use"),
        (["run", "--weights", "no/such"], "no exported weights in no/such"),
        (["table", "--results", "no/such.json"], "cannot read the results file"),
        (["profile"], "VERSION"),
    ],
)
def test_bad_arguments_are_refused_without_a_traceback(arguments, message):
    done = bench(*arguments)
    assert done.returncode not in (0, 130) and message in done.stderr and "Traceback" not in done.stderr


def test_names_may_be_shortened():
    assert [named(text, VERSIONS) for text in ("v1", "v5", "v6_threads")] == ["v1_loops", "v5_codegen", "v6_threads"]


def test_only_engines_that_can_run_race_by_default(monkeypatch):
    monkeypatch.setenv("CXX", "g++")
    monkeypatch.setattr(commands, "find_spec", lambda module: None if module == "openvino" else object())
    assert commands.installed_engines() == ["torch-eager", "torch-frozen", "torch-compiled", "onnxruntime"]
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(commands, "which", lambda name: None)
    assert commands.installed_engines() == ["torch-eager", "torch-frozen", "onnxruntime"]


def test_a_worker_without_its_version_names_the_six():
    with pytest.raises(WorkerError, match="the versions are v1_loops"):
        Worker("v0_nothing", ROOT, IMAGE)
