"""Contenders in processes of their own: isolated, on one BLAS thread, and never worth more than their row."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import measure, peers
from bench.check import check_logits
from bench.inputs import picture
from bench.reference import reference_logits
from bench.worker import Worker, WorkerError
from tests.bench_fakes import make_version, write_answers

IMAGE = np.zeros((32, 32, 3), np.float32)


@pytest.fixture
def root(tmp_path, rng):
    write_answers(tmp_path, rng)
    return tmp_path


def start(root, name, **options):
    return Worker(name, root, IMAGE, root=root, **options)


def test_worker_times_each_run_and_returns_the_logits(root):
    make_version(root, "sleeper", "time.sleep(0.02)\nreturn y")
    with start(root, "sleeper") as worker:
        seconds, faults, logits = worker.run(4)
    assert len(seconds) == len(faults) == 4 and all(s >= 0.02 for s in seconds)
    assert np.array_equal(logits, np.load(root / "right.npy"))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot bind a process to cores")
def test_a_worker_keeps_to_its_cores(root):
    core = max(os.sched_getaffinity(0))
    make_version(root, "where", "return y * 0 + len(os.sched_getaffinity(0))", header="import os")
    with start(root, "where", cores=[core]) as worker:
        assert os.sched_getaffinity(worker._process.pid) == {core}
        assert (worker.run(1)[2] == 1).all()


def test_blas_has_one_thread_whatever_the_environment_says(root, monkeypatch):
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "8")
    make_version(root, "plain")
    with start(root, "plain", threads=2) as worker:
        threads = worker.facts["blas"]
    assert threads or sys.platform == "darwin"  # threadpoolctl knows every BLAS but Apple's
    assert set(threads.values()) <= {1}


def test_blas_with_more_threads_is_refused(root):
    make_version(root, "greedy", header="import threadpoolctl\nthreadpoolctl.threadpool_limits(2)")
    with pytest.raises(WorkerError, match="runs 2 threads where 1 was asked for"):
        start(root, "greedy")


def test_versions_cannot_reach_each_other(root):
    spoil = "import numpy\nnumpy.zeros = None\nimport ops\nops.ANSWER = 13"
    for name, answer, header in (("first", 1, spoil), ("second", 2, "import ops")):
        make_version(root, name, "assert np.zeros is not None or name == 1\nreturn y * 0 + ops.ANSWER",
                     header=header + f"\nname = {answer}")
        (root / name / "ops.py").write_text(f"ANSWER = {answer}")
    with start(root, "first") as first, start(root, "second") as second:
        assert set(first.run(1)[2]) == {13.0}
        assert set(second.run(1)[2]) == {2.0}


def test_peak_memory_is_each_versions_own(root):
    held = 200 * 2**20
    make_version(root, "large", construct=f"self.held = np.ones({held}, np.uint8); del self.held")
    make_version(root, "small")
    own = np.ones(held, np.uint8)  # the parent's memory must not count either
    with start(root, "large") as large, start(root, "small") as small:
        peaks = [worker.resources()["peak_memory"] for worker in (large, small)]
        idle = small.facts["idle_memory"]
    assert own.all() and peaks[0] > held > peaks[1] >= idle > 2**20


def test_array_allocations_are_those_of_one_picture(root):
    make_version(root, "allocating", "a = np.zeros(1000)\nb = a + 1\nreturn y")
    with start(root, "allocating") as worker:
        found = worker.resources()
        assert (found["arrays"], found["array_bytes"] // 1000) == (2, 16)
        assert "arrays" not in worker.resources(count_allocations=False)


def test_what_a_version_prints_does_not_disturb(root):
    make_version(root, "chatty", "print('hello'); os.system('echo hello'); sys.stdout.flush()\nreturn y")
    with start(root, "chatty") as worker:
        assert np.isfinite(worker.run(3)[2]).all()


@pytest.mark.parametrize(
    "body, reason",
    [
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("raise MemoryError", "MemoryError"),
        ("os._exit(3)", "exit status 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", r"killed by SIGKILL \(out of memory\?\)"),
        ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV"),
        ("sys.exit('gave up')", "gave up"),
        ("return lambda: 0", "pickle"),
    ],
)
def test_a_crash_is_an_error_in_one_line(root, body, reason):
    make_version(root, "crashing", body)
    with start(root, "crashing") as worker, pytest.raises(WorkerError, match=reason) as error:
        worker.run(1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("header", ["import no_such_module", "def broken(:", "raise SystemExit(4)", "os._exit(5)"])
def test_a_version_that_cannot_start_is_an_error(root, header):
    make_version(root, "broken", header=header)
    with pytest.raises(WorkerError, match=r"no_such_module|SyntaxError|status 4|status 5"):
        start(root, "broken")


def test_a_missing_version_is_an_error(root):
    with pytest.raises(WorkerError, match="no version in"):
        start(root, "v9_nothing")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads process states from Linux's /proc")
def test_a_paused_worker_is_stopped_and_goes_on_when_resumed(root):
    make_version(root, "plain")
    with start(root, "plain") as worker:
        process = worker._process.pid
        worker.pause()
        os.waitid(os.P_PID, process, os.WSTOPPED | os.WNOWAIT)
        assert Path(f"/proc/{process}/stat").read_text().rsplit(")")[1].split()[0] == "T"
        worker.resume()
        assert np.isfinite(worker.run(1)[2]).all()
        worker.pause()
    assert not Path(f"/proc/{process}").exists()  # closing ends a stopped process too


def test_timing_reads_the_clock_around_each_forward():
    ticks = iter([0.0, 1.5, 10.0, 10.25, 20.0, 23.0])
    seconds, faults, output = measure.timed_runs(lambda image: image + 1, 41, 3, clock=lambda: next(ticks))
    assert seconds == [1.5, 0.25, 3.0] and len(faults) == 3 and output == 42


def test_runs_for_counts_until_the_time_is_up():
    ticks = iter([0.0, 0.1, 0.4, 0.8, 1.1])
    assert measure.runs_for(lambda image: None, None, 1.0, clock=lambda: next(ticks)) == (3, 1.1)


@pytest.mark.parametrize("name", ["torch-eager", "torch-frozen"])
def test_peers_compute_the_same_network(name, small_weights_dir):
    image = picture(64)
    with Worker(name, small_weights_dir, image, threads=1) as worker:
        _, _, logits = worker.run(2)
    check_logits(logits, reference_logits(small_weights_dir, image))


def test_a_peer_that_is_not_installed_is_an_error(small_weights_dir, monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['openvino'] = None")
    monkeypatch.setattr("bench.worker.ROOT", f"{tmp_path}{os.pathsep}{peers.__file__.rsplit(os.sep, 2)[0]}")
    with pytest.raises(WorkerError, match="openvino"):
        Worker("openvino", small_weights_dir, picture(64))
