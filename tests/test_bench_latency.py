"""The latency experiment, end to end on fake versions: what is wrong is not timed, what is right is timed right."""

import json
import re
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.bench_fakes import ROOT, clean_environment, make_version, measure_latency, run_python, write_answers

WRONG = {
    "zeros": ("return y * 0", "off by"),
    "not_a_number": ("y[3] = np.nan\nreturn y", "1 of 7 logits are not finite"),
    "infinite": ("y[3] = np.inf\nreturn y", "1 of 7 logits are not finite"),
    "constant": ("return np.full_like(y, y.mean())", "off by"),
    "channel_missing": ("return y[:-1]", "expected floats of shape"),
    "channel_not_written": ("y[np.abs(y).argmax()] = 0\nreturn y", "off by"),
    "channels_swapped": ("y[[0, 1]] = y[[1, 0]]\nreturn y", "off by"),
    "other_picture": ("return self.other", "off by"),
    "right_at_first": ("return y if self.calls == 1 else y * 0", "off by"),
    "drifting": ("self.right *= 1.001\nreturn y", "off by"),
    "integers": ("return y.astype(int)", "expected floats"),
    "nothing": ("return None", "got NoneType"),
    "crash": ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
    "crash_later": ("if self.calls == 4: raise MemoryError('no more')\nreturn y", "MemoryError: no more"),
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """All the wrong fakes measured in one go, a right one before and one after them."""
    root = tmp_path_factory.mktemp("fakes")
    write_answers(root, np.random.default_rng(1))
    make_version(root, "a_right", "time.sleep(0.002)\nreturn y")
    for name, (body, _) in WRONG.items():
        make_version(root, name, body, construct="self.other = np.load(os.path.join(weights_dir, 'other_picture.npy'))")
    make_version(root, "z_right", "time.sleep(0.004)\nreturn y.astype(np.float64)")
    return measure_latency(root, ["a_right", *WRONG, "z_right"])


@pytest.mark.parametrize("name", WRONG)
def test_wrong_output_is_not_timed(outcome, name):
    benchmarks, failed = outcome
    assert name not in benchmarks
    assert WRONG[name][1] in failed[name]


def test_right_output_is_timed_whatever_its_neighbours_do(outcome):
    benchmarks, failed = outcome
    assert set(benchmarks) == {"a_right", "z_right"} and set(failed) == set(WRONG)
    for name, least in (("a_right", 0.002), ("z_right", 0.004)):
        stats, extra = benchmarks[name]["stats"], benchmarks[name]["extra_info"]
        assert stats["min"] >= least and stats["rounds"] == len(stats["data"]) >= 2
        assert 0 <= extra["max_abs_error"] < 1e-6
        assert extra["peak_memory"] > 0 and extra["startup_seconds"] > 0 and extra["faults"] >= 0
        assert extra["threads"] == 1 and set(extra["blas"].values()) <= {1}


SCRIPTED = """
    import json
    from pathlib import Path
    import numpy as np
    from bench import latency

    right = np.array([1.0, -2.0])

    class Worker:
        facts = {"threads": 1}
        def __init__(self, *_, **__): self.times = iter([FIRST, 9.0, 9.0, 5.0, *TIMES])
        def __enter__(self): return self
        def __exit__(self, *_): pass
        def run(self, rounds, *_): return [next(self.times) for _ in range(rounds)], [7] * rounds, right
        def resources(self, count_allocations): return {"counted": count_allocations}

    class Silent:
        start = stage = tick = finish = lambda self, *_: None

    latency.Worker = Worker
    experiment = latency.Experiment(["fake"], (Path(), np.zeros((32, 32, 3)), right), 1, BUDGET, Path(), Silent())
    latency.measure(experiment)
    print(json.dumps(experiment.benchmarks))
"""


def scripted(first, times, budget):
    """The benchmark of a fake process that says that its pictures took these times."""
    done = run_python(f"FIRST, TIMES, BUDGET = {first}, {times}, {budget}\n" + SCRIPTED.replace("\n    ", "\n"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)[0]


def test_statistics_of_known_times():
    times = [4.0, 1.0, 3.0, 2.0, 100.0, 5.0, 6.0, 7.0]
    benchmark = scripted(first=10.0, times=times, budget=8 * 5.0)  # the fastest warm-up takes 5 s: eight rounds fit
    stats = benchmark["stats"]
    assert stats["data"] == pytest.approx(times, rel=1e-12)
    assert stats["median"] == pytest.approx(statistics.median(times)) and stats["min"] == pytest.approx(1.0)
    assert (stats["q1"], stats["q3"], stats["iqr"]) == pytest.approx((2.5, 6.5, 4.0))
    assert benchmark["extra_info"]["faults"] == 7 and benchmark["extra_info"]["counted"] is True


def test_what_takes_minutes_is_run_once():
    benchmark = scripted(first=200.0, times=[], budget=5.0)
    assert benchmark["stats"]["data"] == [200.0] and benchmark["stats"]["iqr"] == 0
    assert benchmark["extra_info"]["counted"] is False


COMMAND = """
    import sys
    from pathlib import Path
    from types import SimpleNamespace
    import numpy as np
    from bench import commands

    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    commands.ROOT = root
    commands.weights_directory = lambda chosen: root
    commands.source = lambda directory: "a test"
    commands.reference = lambda *_: np.load(root / "right.npy").astype(np.float64)
    commands.measured_peak = lambda cores: {"method": "none", "flops": 2e11, "flops_1": 1e11}
    names = sys.argv[3].split(",")
    sys.exit(commands.run_latency(SimpleNamespace(names=names, size=32, threads=1, weights=None, out=out, budget=0.05)))
"""


def test_the_command_prints_a_row_each_and_fails_if_one_is_wrong(tmp_path, rng):
    write_answers(tmp_path, rng)
    make_version(tmp_path, "v1_right")
    make_version(tmp_path, "v2_wrong", "return -y")
    done = run_python(COMMAND, tmp_path, tmp_path / "out.json", "v1_right,v2_wrong")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"^ v1_right +[\d.]+ .*\n v2_wrong +not timed", done.stdout, re.MULTILINE)
    assert "v2_wrong: off by" in done.stdout
    stored = json.loads((tmp_path / "out.json").read_text())
    assert [b["name"] for b in stored["benchmarks"]] == ["v1_right"]
    assert [f["name"] for f in stored["failed"]] == ["v2_wrong"]
    done = run_python(COMMAND, tmp_path, tmp_path / "out.json", "v1_right")
    assert done.returncode == 0


def test_ctrl_c_prints_what_was_measured(tmp_path, rng):
    write_answers(tmp_path, rng)
    make_version(tmp_path, "v1_right")
    make_version(tmp_path, "v2_endless", f"open({str(tmp_path / 'busy')!r}, 'w').close()\ntime.sleep(100)\nreturn y")
    code = "\n".join(line.removeprefix("    ") for line in COMMAND.splitlines())
    command = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "out.json"), "v1_right,v2_endless"]
    process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "busy").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert re.search(r"^ v1_right +[\d.]+ ", printed, re.MULTILINE) and "stopped early" in printed
    assert "v2_endless" not in printed
    assert [b["name"] for b in json.loads((tmp_path / "out.json").read_text())["benchmarks"]] == ["v1_right"]
