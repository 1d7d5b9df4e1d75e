"""The latency of each version: one pytest-benchmark test a version, in a process of its own.

pytest-benchmark counts the rounds and keeps the statistics; the clock that it reads advances only while a version
works, by the time that the version's own process took. `python -m bench` runs this file with an Experiment.
"""

import io
import os
from contextlib import redirect_stdout
from statistics import median

import pytest

from bench import network, results
from bench.check import WrongOutput, check_logits
from bench.worker import Worker, WorkerError

GROUP = "latency"
WARMUP = 3  # pictures; caches, page tables and clock speed have settled by then
MOST_ROUNDS = 200


class Clock:
    """Seconds that versions have worked, as told by their processes."""

    def __init__(self):
        self.now = 0.0

    def read(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


CLOCK = Clock()


class Experiment:
    """What to measure and with what; a pytest plugin. `show` is told how it goes (see live.Display)."""

    def __init__(self, names, inputs, threads, budget, root, show):
        """inputs: (weights directory, picture, reference logits). budget: seconds of timing a version."""
        self.names, self.inputs, self.threads, self.budget = names, inputs, threads, budget
        self.root, self.show = root, show
        _, image, reference = inputs
        self.flops = network.flops(image.shape[0], len(reference))
        self.benchmarks, self.failed = [], []

    def pytest_generate_tests(self, metafunc):
        metafunc.parametrize("name", self.names, ids=str)

    @pytest.fixture
    def experiment(self):
        return self

    def measure(self, name, benchmark):
        """Start a version, check it, time it, check it again. Raises WorkerError or WrongOutput."""
        weights_dir, image, reference = self.inputs
        self.show.start(name, "starts")
        with Worker(name, weights_dir, image, self.threads, self.root, cache=False) as worker:
            self.show.start(name, "runs")
            (first,), faults, logits = worker.run(1, self.show.stage, self.show.tick)
            error = check_logits(logits, reference)
            if self.budget < 2 * first:
                # Minutes are not spent twice: the run that was checked is the one that counts.
                benchmark.pedantic(CLOCK.advance, args=[first])
            else:
                logits, faults = self.time_rounds(worker, benchmark)
                error = max(error, check_logits(logits, reference))
            benchmark.extra_info.update(worker.resources(count_allocations=first < self.budget))
            benchmark.extra_info.update(worker.facts, max_abs_error=error, faults=median(faults), flops=self.flops)

    def time_rounds(self, worker, benchmark):
        """Fill the budget with rounds. Return (the last logits, minor faults of each round)."""
        warm, _, _ = worker.run(WARMUP)
        rounds = max(2, min(MOST_ROUNDS, int(self.budget / min(warm))))
        faults, logits = [], None

        def one_picture():
            nonlocal logits
            seconds, found, logits = worker.run(1)
            faults.extend(found)
            CLOCK.advance(seconds[0])

        benchmark.pedantic(one_picture, rounds=rounds)
        return logits, faults


@pytest.mark.benchmark(group=GROUP, timer=CLOCK.read)
def test_latency(name, experiment, benchmark):
    reason = None
    try:
        experiment.measure(name, benchmark)
    except (WorkerError, WrongOutput) as error:
        reason = str(error)
        experiment.failed.append(results.failure(name, GROUP, reason))
    else:
        times = benchmark.stats.stats.data
        experiment.benchmarks.append(results.entry(name, GROUP, times, **benchmark.extra_info))
    experiment.show.finish(experiment.benchmarks, experiment.failed)
    assert reason is None


def measure(experiment):
    """Run the experiment's tests, which fill its `benchmarks` and `failed`. Raises KeyboardInterrupt on Ctrl-C."""
    options = ["-p", "no:cacheprovider", "-o", "addopts=", "-s", "--benchmark-quiet", __file__]
    for variable in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):  # a user's own, or a test's, are not for this run
        os.environ.pop(variable, None)
    printed = io.StringIO()
    with redirect_stdout(printed):
        status = pytest.main(options, plugins=[experiment])
    if status == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(printed.getvalue())
