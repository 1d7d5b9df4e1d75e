"""Versions in processes of their own: isolated, on one BLAS thread, and never worth more than their row."""

import os
from pathlib import Path

import numpy as np
import pytest

from bench.worker import Worker, WorkerError
from tests.bench_fakes import fake_inputs, make_version


@pytest.fixture
def start(tmp_path, rng):
    """start(name, **options): the Worker of a fake."""
    inputs = fake_inputs(tmp_path, rng)
    return lambda name, **options: Worker(name, inputs, root=tmp_path, **options)


def test_pictures_are_timed_one_by_one_whatever_a_version_prints(start, tmp_path):
    make_version(tmp_path, "sleeper", "print('hello'); os.system('echo hello')\ntime.sleep(0.02)\nreturn y")
    with start("sleeper") as worker:
        seconds, logits = worker.ask("pictures", 4, 0.0)
        assert len(seconds) == 4 and all(0.02 <= s < 10 for s in seconds)
        assert np.array_equal(logits, np.load(tmp_path / "right.npy"))
        seconds, _ = worker.ask("pictures", 1, 0.2)
        assert len(seconds) > 1 and sum(seconds) >= 0.15


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot bind a process to cores")
def test_a_worker_keeps_to_its_cores(start, tmp_path):
    make_version(tmp_path, "where", "return y * 0 + len(os.sched_getaffinity(0))")
    with start("where", cores=[max(os.sched_getaffinity(0))]) as worker:
        assert (worker.ask("pictures", 1, 0.0)[1] == 1).all()


def test_blas_has_one_thread_whatever_the_environment_says(start, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "8")
    make_version(tmp_path, "plain")
    start("plain", threads=2).close()
    make_version(tmp_path, "greedy", header="import threadpoolctl\nthreadpoolctl.threadpool_limits(2)")
    with pytest.raises(WorkerError, match=r"BLAS threads: .*2.* where 1 was asked for"):
        start("greedy")


def test_versions_cannot_reach_each_other(start, tmp_path):
    for name, answer, header in (
        ("first", 1, "import ops\nnp.zeros = None\nops.ANSWER = 13"),
        ("second", 2, "import ops"),
    ):
        make_version(tmp_path, name, f"assert np.zeros or {answer} == 1\nreturn y * 0 + ops.ANSWER", header=header)
        (tmp_path / name / "ops.py").write_text(f"ANSWER = {answer}")
    with start("first") as first, start("second") as second:
        assert set(first.ask("pictures", 1, 0.0)[1]) == {13.0}
        assert set(second.ask("pictures", 1, 0.0)[1]) == {2.0}


def test_memory_and_arrays_are_each_versions_own(start, tmp_path):
    held = 200 * 2**20
    make_version(tmp_path, "large", construct=f"self.held = np.ones({held}, np.uint8); del self.held")
    make_version(tmp_path, "small", "a = np.zeros(1000)\nb = a + 1\nreturn y")
    own = np.ones(held, np.uint8)  # the parent's memory must not count either
    with start("large") as large, start("small") as small:
        peaks = [worker.ask("resources", False)["peak_memory"] for worker in (large, small)]
        found = small.ask("resources", True)
    assert own.all() and peaks[0] > held > peaks[1] > 2**20
    assert (found["arrays"], found["array_bytes"] // 1000) == (2, 16)


@pytest.mark.parametrize(
    "body, reason",
    [
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("os._exit(3)", "exit status 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", r"killed by SIGKILL \(out of memory\?\)"),
        ("sys.exit('gave up')", "gave up"),
        ("return lambda: 0", "pickle"),
    ],
)
def test_a_crash_is_an_error_in_one_line(start, tmp_path, body, reason):
    make_version(tmp_path, "crashing", body)
    with start("crashing") as worker, pytest.raises(WorkerError, match=reason) as error:
        worker.ask("pictures", 1, 0.0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("header", ["import no_such_module", "def broken(:", "os._exit(5)", None])
def test_a_version_that_cannot_start_is_an_error(start, tmp_path, header):
    if header:
        make_version(tmp_path, "broken", header=header)
    with pytest.raises(WorkerError, match=r"no_such_module|SyntaxError|status 5|no version in"):
        start("broken")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads process states from Linux's /proc")
def test_a_paused_worker_is_stopped_and_goes_on_when_resumed(start, tmp_path):
    make_version(tmp_path, "plain")
    with start("plain") as worker:
        process = worker._process.pid
        worker.pause()
        os.waitid(os.P_PID, process, os.WSTOPPED | os.WNOWAIT)
        worker.resume()
        assert np.isfinite(worker.ask("pictures", 1, 0.0)[1]).all()
        worker.pause()
    assert not Path(f"/proc/{process}").exists()  # closing ends a stopped process too
