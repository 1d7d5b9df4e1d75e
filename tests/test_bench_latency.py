"""`pytest bench`, end to end on fake versions: what is wrong fails and has no time, what is right is timed right."""

import json
import re

import numpy as np
import pytest

from common.versions import VERSIONS
from tests.bench_fakes import fake_inputs, make_version, run_pytest_bench

WRONG = {
    "zeros": ("return y * 0", "off by"),
    "not_a_number": ("y[3] = np.nan\nreturn y", "1 of 7 logits are not finite"),
    "infinite": ("y[3] = np.inf\nreturn y", "1 of 7 logits are not finite"),
    "constant": ("return np.full_like(y, y.mean())", "off by"),
    "channel_missing": ("return y[:-1]", "expected floats of shape"),
    "channel_not_written": ("y[np.abs(y).argmax()] = 0\nreturn y", "off by"),
    "channels_swapped": ("y[[0, 1]] = y[[1, 0]]\nreturn y", "off by"),
    "right_at_first": ("return y if self.calls < 9 else y * 0", "off by"),
    "drifting": ("self.right *= 1.001\nreturn y", "off by"),
    "integers": ("return y.astype(int)", "expected floats"),
    "nothing": ("return None", "got NoneType"),
    "crash": ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
    "crash_later": ("if self.calls == 9: raise MemoryError('no more')\nreturn y", "MemoryError: no more"),
}
SHORT = ("--benchmark-max-time=0.05", "--benchmark-json")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """All the wrong fakes in one run, between right ones: what was printed, the stored benchmarks, the exit status."""
    root = tmp_path_factory.mktemp("fakes")
    fake_inputs(root, np.random.default_rng(1))
    make_version(root, "a_once", "time.sleep(0.02)\nreturn y")
    make_version(root, "b_right", "time.sleep(0.002)\nreturn y")
    for name, (body, _) in WRONG.items():
        make_version(root, name, body)
    make_version(root, "z_right", "a = np.zeros(1000)\ntime.sleep(0.004)\nreturn y.astype(np.float64)")
    done = run_pytest_bench(*SHORT, root / "run.json", fakes=root)
    stored = json.loads((root / "run.json").read_text())
    return done, {benchmark["param"]: benchmark for benchmark in stored["benchmarks"]}, stored["machine_info"]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_output_fails_and_has_no_time(outcome, name):
    done, benchmarks, _ = outcome
    assert done.returncode == 1 and name not in benchmarks
    assert re.search(rf"^{name}: .*{WRONG[name][1]}", done.stdout, re.MULTILINE)
    assert not re.search(rf"^test_latency\[{name}\]", done.stdout, re.MULTILINE)  # a row of the table


def test_right_output_is_timed_whatever_its_neighbours_do(outcome):
    done, benchmarks, machine = outcome
    assert set(benchmarks) == {"a_once", "b_right", "z_right", None}  # None: the empty round trip
    for name, least in (("b_right", 0.002), ("z_right", 0.004)):
        stats, extra = benchmarks[name]["stats"], benchmarks[name]["extra_info"]
        assert stats["min"] >= least and stats["rounds"] == len(stats["data"]) >= 5
        assert least <= extra["p50"] <= extra["p95"] <= extra["p99"] and 0 <= extra["max_abs_error"] < 1e-6
        assert extra["gflops"] == pytest.approx(extra["flops"] / extra["p50"] / 1e9)
        assert extra["peak_memory"] > 0 and extra["startup_seconds"] > 0 and extra["faults"] >= 0
        assert (extra["threads"], extra["precision"]) == (1, "float32")
        assert extra["arrays"] == (name == "z_right")
        assert name in done.stdout.split("startup_seconds")[1].split("---- benchmark")[0]
    assert benchmarks[None]["stats"]["median"] < 0.002
    assert machine["processor"] and machine["cores"] >= 1 and machine["numpy"] == np.__version__
    assert benchmarks["a_once"]["stats"]["rounds"] == 1 and benchmarks["a_once"]["stats"]["min"] >= 0.02
    assert "arrays" not in benchmarks["a_once"]["extra_info"]


def test_what_was_interrupted_before_it_was_checked_is_not_stored(tmp_path):
    fake_inputs(tmp_path, np.random.default_rng(1))
    interrupt = "if self.calls == 20: os.kill(os.getppid(), signal.SIGINT)\ntime.sleep(0.002)\nreturn y"
    make_version(tmp_path, "a_once")
    make_version(tmp_path, "b_interrupted", interrupt)
    right = [f"right_{number}" for number in range(len(VERSIONS))]  # they run before it, the last one first
    for name in right:
        make_version(tmp_path, name, "time.sleep(0.002)\nreturn y")
    done = run_pytest_bench("--benchmark-max-time=0.2", "--benchmark-json", tmp_path / "run.json", fakes=tmp_path)
    assert done.returncode == 2, done.stdout
    stored = json.loads((tmp_path / "run.json").read_text())["benchmarks"]
    assert [benchmark["param"] for benchmark in stored if benchmark["group"] == "latency"] == right[::-1]


def test_real_versions_on_chosen_weights(small_weights_file, tmp_path):
    arguments = ("--only", "v5,v3", "--size", 32, "--threads", 1, "--weights", small_weights_file)
    done = run_pytest_bench(*arguments, *SHORT, tmp_path / "run.json")
    assert done.returncode == 0, done.stdout
    stored = json.loads((tmp_path / "run.json").read_text())["benchmarks"]
    assert [benchmark["param"] for benchmark in stored] == ["v5_codegen", "v3_preload", None]
    assert all(benchmark["extra_info"]["image_size"] == 32 for benchmark in stored[:2])
