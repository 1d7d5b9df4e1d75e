"""What takes turns, on fake versions; the layers' profile, on real ones; the command line."""

import io
import json
import multiprocessing
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bench import __main__ as main
from bench import accuracy, experiments, peak, profile, race
from bench.child import Child
from bench.inputs import make_inputs
from bench.reference import reference_logits
from bench.worker import Worker
from common.architecture import layers
from common.machine import available_cores
from common.versions import ROOT, VERSIONS, load_version
from common.weights_file import intact
from tests.bench_fakes import fake_inputs, make_version


@pytest.fixture
def inputs(tmp_path, rng, monkeypatch):
    """The inputs of fakes, which the experiments look for in tmp_path."""
    monkeypatch.setattr(race, "Worker", lambda *what, **options: Worker(*what, **options | {"root": tmp_path}))
    return fake_inputs(tmp_path, rng)


def test_race_interleaves_checks_every_turn_and_loses_only_who_fails(inputs, tmp_path):
    make_version(tmp_path, "slow", f"open({str(tmp_path / 'log')!r}, 'a').write('s')\ntime.sleep(0.02)\nreturn y")
    make_version(tmp_path, "fast", f"open({str(tmp_path / 'log')!r}, 'a').write('f')\ntime.sleep(0.005)\nreturn y")
    make_version(tmp_path, "wrong", "return y + 1")
    make_version(tmp_path, "wrong_later", "return y if self.calls < 5 else y + 1")
    make_version(tmp_path, "dies_later", "if self.calls == 5: os._exit(9)\nreturn y")
    make_version(tmp_path, "dies_last", "if self.calls > 16: os._exit(9)\nreturn y")  # after 4 checks and 4 rounds of 3
    names = ("slow", "wrong", "fast", "wrong_later", "dies_later", "dies_last")
    entries = race.race({name: race.Entrant(name) for name in names}, inputs, "race, 1 thread", rounds=4)
    assert [entry["name"] for entry in entries] == ["wrong", "wrong_later", "dies_later", "dies_last", "slow", "fast"]
    assert all("exit status 9" in entry["reason"] for entry in entries[2:4])
    turns = (tmp_path / "log").read_text()[8:-4]  # the first four are checks, the last two count faults and arrays
    assert set(zip(*[iter(turns)] * 6)) == {tuple("sssfff"), tuple("fffsss")} and len(turns) == 24
    for benchmark, least in zip(entries[4:], (0.02, 0.005)):
        stats, extra = benchmark["stats"], benchmark["extra_info"]
        assert stats["rounds"] == len(stats["data"]) == 4 and extra["calls"] == 4 * 2  # a turn's first is not timed
        assert stats["min"] >= least and extra["p50"] >= least
        assert extra["gflops"] == pytest.approx(inputs.flops / stats["median"] / 1e9)
        assert benchmark["group"] == "race, 1 thread" and extra["max_abs_error"] < 1e-6 and extra["arrays"] == 0


def test_the_largest_error_of_all_turns_is_told(inputs, tmp_path):
    make_version(tmp_path, "better_later", "return y * np.float32(1 if self.calls > 1 else 1.00005)")
    (found,) = race.race({"better_later": race.Entrant("better_later")}, inputs, "race, 1 thread", rounds=2)
    assert found["extra_info"]["max_abs_error"] > 2e-5 * np.abs(inputs.logits).max()


def test_code_is_compiled_anew_unless_asked(inputs, monkeypatch):
    started = []

    def start(*_, **options):
        started.append(options["cache"])
        raise race.WorkerError("enough")

    monkeypatch.setattr(race, "Worker", start)
    for options in ({}, {"cache": True}):
        (failed,) = race.race({"any": race.Entrant("any")}, inputs, "race, 1 thread", rounds=1, **options)
        assert failed["reason"] == "enough"
    assert started == [False, True]


def test_the_peak_is_measured_in_each_turn_of_a_version(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(race, "VERSIONS", ("ours",))
    for name in ("ours", "engine"):
        make_version(tmp_path, name)
    entrants = {"ours": race.Entrant("ours"), "engine": race.Entrant("engine"), "two": race.Entrant("ours", 1, 2)}
    ours, engine, two = (entry["extra_info"] for entry in race.race(entrants, inputs, "race, 1 thread", rounds=3))
    assert len(ours["peaks"]) == 3 and all(1e9 < rate < 1e12 for rate in ours["peaks"])
    assert "peaks" not in engine and "peaks" not in two and "isa" not in ours


def test_who_is_quick_runs_as_often_as_asked(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(race, "QUICK", 0.02)
    make_version(tmp_path, "quick")
    make_version(tmp_path, "slower", "time.sleep(0.03)\nreturn y")
    entrants = {name: race.Entrant(name) for name in ("quick", "slower")}
    found = race.race(entrants, inputs, "race, 1 thread", rounds=3, calls=14)
    assert [entry["extra_info"]["calls"] for entry in found] == [3 * 5, 3 * 2]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads process states from Linux's /proc")
def test_who_is_not_running_is_stopped(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(race, "VERSIONS", ("spins",))  # its peak is measured after its pictures
    file = tmp_path / "process"
    make_version(tmp_path, "spins", f"open({str(file)!r}, 'w').write(str(os.getpid()))\nreturn y")
    look = f"state = open('/proc/' + open({str(file)!r}).read() + '/stat').read().split()[2]"
    look += "\nassert self.calls > 7 or state == 'T'"  # at last it runs for its resources alone
    make_version(tmp_path, "looks", f"{look}\nreturn y")
    found = race.race({name: race.Entrant(name) for name in ("spins", "looks")}, inputs, "race, 1 thread", rounds=1)
    assert [entry["name"] for entry in found] == ["spins", "looks"] and "stats" in found[1], found


@pytest.mark.skipif(available_cores() < 2, reason="needs two cores")
def test_each_process_has_a_core_of_its_own_and_each_is_checked(inputs, tmp_path):
    cores = tmp_path / "cores"
    cores.mkdir()
    note = f"open({str(cores)!r} + f'/{{sorted(os.sched_getaffinity(0))}}', 'w')"
    make_version(tmp_path, "where", f"{note}\nreturn y")
    make_version(tmp_path, "second_wrong", "return y + (max(os.sched_getaffinity(0)) != min(self.all))",
                 "self.all = sorted(os.sched_getaffinity(os.getppid()))")  # fmt: skip
    entrants = {name: race.Entrant(name, processes=2) for name in ("where", "second_wrong")}
    failed, _ = race.race(entrants, inputs, "throughput", rounds=1)
    assert len(list(cores.iterdir())) == 2 and failed["name"] == "second_wrong" and "off by" in failed["reason"]


def test_what_takes_minutes_runs_once(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(race, "SLOW", 0.01)
    make_version(tmp_path, "slow", "assert self.calls == 1\ntime.sleep(0.02)\nreturn y")
    (benchmark,) = race.race({"slow": race.Entrant("slow")}, inputs, "race, 1 thread", rounds=3)
    assert benchmark["stats"]["rounds"] == 1 and benchmark["stats"]["min"] >= 0.02
    assert "arrays" not in benchmark["extra_info"]


def test_throughput_adds_up_processes_that_work_at_the_same_time(inputs, tmp_path):
    make_version(tmp_path, "sleeper", "time.sleep(0.05)\nreturn y")  # sleeping processes share no core
    entrants = {"one": race.Entrant("sleeper"), "three": race.Entrant("sleeper", processes=3)}
    one, three = race.race(entrants, inputs, "throughput", rounds=2, duration=0.5)
    assert one["extra_info"]["p50"] >= 0.05 and three["extra_info"]["p50"] >= 0.05
    assert one["stats"]["median"] >= 0.05 > three["stats"]["median"] >= 0.05 / 3
    assert three["extra_info"]["processes"] == 3
    assert three["extra_info"]["peak_memory"] > 2 * one["extra_info"]["peak_memory"]


def entered(monkeypatch, measure, *arguments):
    """{group: {name: entrant}} of the races that an experiment holds, and their options by group.

    Every picture takes a nanosecond an operation.
    """
    found, given = {}, {}

    def note(entrants, inputs, group, *_, **options):
        found.setdefault(group, {}).update(entrants)
        given[group] = options
        extra = [{"version": e.version, "p50": 1e-9 * inputs.flops, "flops": inputs.flops} for e in entrants.values()]
        return [{"extra_info": each} for each in extra]

    monkeypatch.setattr(experiments, "race", note)
    monkeypatch.setattr(experiments, "make_inputs", lambda size, weights: SimpleNamespace(flops=size**2 * 1e5))
    entries = measure(SimpleNamespace(flops=1, weights=None), *arguments)
    assert len(entries) == sum(map(len, found.values()))
    named = {group: {name: tuple(e) for name, e in entrants.items()} for group, entrants in found.items()}
    return named, given


def test_who_takes_part_in_what(monkeypatch):
    monkeypatch.setattr(experiments, "available_cores", lambda: 4)
    found, given = entered(monkeypatch, experiments.races, None, ("v1_loops", "v6_threads"))
    assert given == {group: {"calls": race.CALLS} for group in found}  # a p99 needs them
    assert found["race, 1 thread"] == {"v6_threads": ("v6_threads", 1, 1, None, ROOT)}  # version 1 runs once
    assert set(found["race, 4 threads"].values()) == {("v1_loops", 4, 1, None, ROOT), ("v6_threads", 4, 1, None, ROOT)}
    found, _ = entered(monkeypatch, experiments.throughput, None, ("v4_no_alloc", "v6_threads"))
    assert found["throughput"] == {
        "v6_threads, 1 × 4 threads": ("v6_threads", 4, 1, None, ROOT),
        "v4_no_alloc, 4 × 1 thread": ("v4_no_alloc", 1, 4, None, ROOT),
        "v6_threads, 4 × 1 thread": ("v6_threads", 1, 4, None, ROOT),
    }
    found, given = entered(monkeypatch, experiments.scaling, None, ("v4_no_alloc", "v6_threads"), (448, 64, 320))
    assert all(options["duration"] == experiments.TURN and options["cache"] for options in given.values())
    assert [entrant[1] for entrant in found["scaling, threads"].values()] == [1, 2, 3, 4]
    points = [f"{name}, {size} pixels" for size in (64, 320) for name in ("v4_no_alloc", "v6_threads")]
    assert list(found["scaling, image size"]) == points  # at 448 pixels each would take 33 s


def test_a_version_and_its_peak_run_in_the_instruction_set_that_was_asked_for(small_weights_file, monkeypatch):
    asked = []
    monkeypatch.setattr(peak, "multiply_adds", lambda flags: asked.append(flags))
    monkeypatch.setattr(peak, "rates", lambda work, cores, trials: asked.append(cores) or [1.0, 5.0, 3.0])
    image = np.zeros((32, 32, 3), np.float32)
    for isa, known in load_version("v6_threads").compiler.Compiler().isas.items():
        child = Child("v6_threads", small_weights_file, image, 2, isa=isa)
        assert child.model.network.isa.flags == known.flags and child.model.network.isa.width == known.width
        assert child.peak() == 3.0 and asked == [known.flags, 2]
        asked.clear()
    child = Child("v4_no_alloc", small_weights_file, image, 2)
    assert child.peak() == 3.0 and asked == [peak.NATIVE, 1]


def test_who_runs_in_which_instruction_set(monkeypatch):
    monkeypatch.setattr(experiments, "available_cores", lambda: 4)
    found, given = entered(monkeypatch, experiments.instruction_sets, None)
    isas = list(load_version("v5_codegen").compiler.Compiler().isas)
    expected = [("v4_no_alloc", 1, 1, None, ROOT), *(("v5_codegen", 1, 1, isa, ROOT) for isa in isas)]
    expected += [("v6_threads", 4, 1, isa, ROOT) for isa in isas]
    expected += [("v7_winograd", threads, 1, isa, ROOT) for threads in (1, 4) for isa in isas]
    for version in ("v8_int8", "v9_ozaki"):
        isas = list(load_version(version).compiler.Compiler().isas)
        expected += [(version, threads, 1, isa, ROOT) for threads in (1, 4) for isa in isas]
    assert list(found["instruction sets"].values()) == expected
    assert given == {"instruction sets": {"duration": experiments.TURN}}


def test_trace_gives_each_operator_to_the_convolution_before_it():
    clock = iter(range(0, 1000, 3)).__next__  # every call takes 3
    module = SimpleNamespace(conv2d=int, relu=int, max_pool=int, fully_connected=int)
    trace = profile.Trace(module, clock)
    for name in ("conv2d", "relu", "max_pool", "conv2d", "relu", "relu", "fully_connected"):
        getattr(module, name)()
    first, second, *_ = (layer.name for layer in layers(32))
    found = {(first, "conv2d"): 3, (first, "relu"): 3, ("maxpool", "max_pool"): 3, (second, "conv2d"): 3}
    assert trace.take_parts(32) == found | {(second, "relu"): 6, ("fc", "fully_connected"): 3}
    assert trace.take_parts(32) == {}


def test_trace_gives_each_tensor_that_is_read_to_its_layer():
    class WeightFile(dict):
        pass

    clock = iter([0, 5, 5, 7, 7, 8]).__next__
    trace = profile.Trace(SimpleNamespace(WeightFile=WeightFile), clock)
    weights = WeightFile({"conv1.weight": 1, "bn1.bias": 2, "layer1.0.downsample.1.weight": 3})
    assert [weights[name] for name in weights] == [1, 2, 3]
    assert trace.take_parts(32) == {("conv1", "read"): 7, ("layer1.0.downsample.0", "read"): 1}
    assert trace.take_parts(32) == {}


def test_a_profile_is_of_a_picture_after_one_that_warms_up(tmp_path, rng):
    make_version(tmp_path, "ours", f"open({str(tmp_path / 'log')!r}, 'a').write('p')\nreturn y")
    with Worker("ours", fake_inputs(tmp_path, rng), root=tmp_path, trace=True) as worker:
        worker.ask("profile")
    assert (tmp_path / "log").read_text() == "pp"


def test_products_are_of_windows_that_have_just_been_written():
    """As in version 2: they come from a cache, and not with what an earlier product left there."""
    products = profile.Products(32)
    for columns, _, out in products.matrices:
        columns.fill(np.nan)
        out.fill(np.nan)
    assert products.seconds() > 0
    assert all((columns == 1).all() and (out == columns.shape[1]).all() for columns, _, out in products.matrices)


def adjacent_shares():
    """The share of a tensor's weights that lie beside the one before: as Python puts them into gaps, and in order."""
    kept = [float(number) for number in range(1 << 18)]
    random.Random(0).shuffle(kept)
    del kept[::2]  # leaves gaps everywhere
    shares, weight = [], np.ones((64, 3, 3, 64)).tolist()
    for in_order in (False, True):
        convolution = profile.Objects(lambda x, weight, stride: (x, weight, stride), in_order)
        assert convolution([[[1.0]]], weight, stride=2) == ([[[1.0]]], weight, 2)
        shares += convolution.adjacent
    return shares


def test_objects_are_laid_out_in_order_where_copies_alone_would_not_be():
    """In a process of its own, as in the benchmark: what the tests before leave free may be more than is filled."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        shares = pool.apply(adjacent_shares)
    assert shares[1] > 0.9 > 0.5 > shares[0]


@pytest.mark.exhaustive
def test_version_1_as_it_is_and_with_its_objects_in_order(small_weights_file):
    found = experiments.objects(make_inputs(32, small_weights_file))
    assert [entry["name"] for entry in found] == ["as it is", "in order"] and not [e for e in found if "reason" in e]
    convolutions = [layer.name for layer in layers(32)[:-1]]
    for extra in (entry["extra_info"] for entry in found):
        assert all(extra["parts"][name]["conv2d"] > 0 for name in convolutions) and extra["max_abs_error"] < 1e-3
        assert len(extra["adjacent"]) == len(convolutions)


def test_profile_finds_every_layer_of_a_version(small_weights_file):
    names = [name for name in VERSIONS[1:] if name != "v5_codegen"]  # whose steps are version 6's
    benchmarks = experiments.profiles(make_inputs(64, small_weights_file), min(2, available_cores()), names, rounds=2)
    assert [b["name"] for b in benchmarks] == names
    assert not [b for b in benchmarks if "reason" in b]
    for benchmark in benchmarks:
        parts = benchmark["extra_info"]["parts"]
        assert benchmark["stats"]["rounds"] == 2 and {layer.name for layer in layers(64)} <= set(parts)
        assert all(seconds >= 0 for part in parts.values() for seconds in part.values())
        assert any("transform" in part for part in parts.values()) == (benchmark["name"] == "v7_winograd")
        assert not [name for name in parts if name.endswith(("transform", "digits"))]  # which are parts of a layer
        assert (
            all("read" in part for part in parts.values() if "conv2d" in part) or benchmark["name"] != "v2_vectorized"
        )
        assert len(set(benchmark["extra_info"]["peaks"])) == 2  # one a round, and no two alike
        assert ("products" in benchmark["extra_info"]) == (benchmark["name"] in experiments.NUMPY)
    turns = [b["extra_info"]["turns"] for b in benchmarks if "turns" in b["extra_info"]]
    assert len(turns) == 2 and all(len(own) == 16 and {len(t) for t in own.values()} == {2} for own in turns)


def test_accuracy_counts_first_names_and_five(small_weights_file, rng):
    """Seven pictures, whose labels are chosen to stand in first to seventh place."""
    version, labelled = load_version("v3_preload"), []
    for place in range(7):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(file, "png")
        image = version.image.load_image(file, intact(small_weights_file)["preprocessing"])
        order = np.argsort(-reference_logits(small_weights_file, image))
        labelled.append((file, 6 - int(order[place])))
    classes = [f"class {6 - number}" for number in range(7)]  # the pictures' numbers are not the weights'
    found = accuracy.measured("v3_preload", make_inputs(32, small_weights_file), labelled, classes)
    extra = found["extra_info"]
    assert (extra["accuracy"], extra["top5"], extra["calls"]) == (1 / 7, 5 / 7, 7) and found["group"] == "accuracy"


def test_ties_are_not_recognised(small_weights_file, monkeypatch):
    """An engine that gives all classes the same logit knows nothing."""
    alike = lambda self, what, images: ([0.001] * len(images), np.ones((len(images), 7)))  # noqa: E731
    monkeypatch.setattr(accuracy.Worker, "ask", alike)
    labelled = [(ROOT / "samples" / "cat.jpg", number) for number in range(7)]
    classes = [f"class {number}" for number in range(7)]
    extra = accuracy.measured("v3_preload", make_inputs(32, small_weights_file), labelled, classes)["extra_info"]
    assert (extra["accuracy"], extra["top5"]) == (0, 0)


def bench(*arguments):
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


def test_the_command_stores_prints_and_adds_to_a_file(small_weights_file, tmp_path):
    out = tmp_path / "new" / "run.json"
    common = ("--size", 32, "--rounds", 2, "--weights", small_weights_file, "--out", out)
    done = bench("race", "v5", "v6", *common, "--threads", 1)
    assert done.returncode == 0 and "`v6_threads`" in done.stdout and "Measured on" in done.stdout, done.stderr
    stored = json.loads(out.read_text())
    assert [b["name"] for b in stored["benchmarks"]] == ["v5_codegen", "v6_threads"]
    assert all(stored["peak"][key] > 0 for key in ("flops", "flops_1", "bandwidth", "bandwidth_1"))
    done = bench("profile", "v2", *common, "--size", 48)
    assert done.returncode == 1 and done.stderr.endswith("or name one with --out\n")
    compare = [sys.executable, "-m", "pytest_benchmark", "compare", out, "--columns=median"]
    done = subprocess.run(compare, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "v5_codegen" in done.stdout


def test_only_failures_of_this_run_make_it_fail(small_weights_file, tmp_path, monkeypatch):
    failure = {"group": "fake", "name": "v2_vectorized", "reason": "no memory"}
    monkeypatch.setattr(main, "measured_peak", lambda: {"flops": 2e9, "flops_1": 1e9})
    for found in [failure], []:
        monkeypatch.setitem(main.EXPERIMENTS, "objects", ("", lambda inputs, a, found=found: found, lambda found: []))
        monkeypatch.setitem(main.EXPERIMENTS, "caches", ("", lambda inputs, a: [], lambda found: []))
        arguments = main.parser().parse_args(["objects", "--weights", str(small_weights_file), "--size", "32"])
        out = tmp_path / "run.json"
        assert main.measure(arguments, ["objects", "caches"], out) == len(found)
        assert main.measure(arguments, ["caches"], out) == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["race", "v0"], "there is no 'v0'; choose from v1_loops"),
        (["reference", "latency"], "choose from race"),
        (["batches", "openvino"], "batches takes no names"),
        (["race", "--weights", "no/such"], "weights in no/such"),
        (["accuracy"], "measured on labelled pictures: --data"),
        (["table", "--results", "no/such.json"], "no/such.json is no results file"),
        (["table", "no/such.md"], "no/such.md"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message):
    done = bench(*arguments)
    assert done.returncode == 1 and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("--size", "abc"), ("--size", "31"), ("--rounds", "0"), ("--rounds", "-1")])
def test_bad_numbers_say_what_is_allowed(arguments):
    done = bench("profile", "v2", *arguments)
    assert done.returncode == 2 and f"{arguments[1]} is no whole number from" in done.stderr
