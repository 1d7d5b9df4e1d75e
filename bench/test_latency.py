"""The latency of each version: a round is one round trip to the version's process, for one picture.

`pytest bench --benchmark-json=FILE` stores it, `--benchmark-compare` and `pytest-benchmark compare` compare it.
"""

import pytest

from bench.check import WrongOutput, check_output
from bench.inputs import Inputs
from bench.results import extra_info
from bench.worker import Worker, WorkerError
from common.versions import VERSIONS

WARMUP = 3  # pictures; caches, page tables and clock speed have settled by then


@pytest.mark.benchmark(group="latency")
def test_latency(version, inputs, benchmark, request):
    """A wrong output fails, before or after, and has no time."""
    try:
        with Worker(version, inputs, request.config.option.threads, cache=False) as worker:
            time_pictures(worker, inputs, benchmark)
    except (WorkerError, WrongOutput) as error:
        benchmark.has_error = True
        if benchmark.stats:
            benchmark.stats.stats.data.clear()
        pytest.fail(f"{version}: {error}", pytrace=False)
    request.node.user_properties.append(("extra_info", benchmark.extra_info))


def time_pictures(worker: Worker, inputs: Inputs, benchmark) -> None:
    once, picture, error = worker.name == VERSIONS[0], ("pictures", 1, 0.0), 0.0
    if once:  # minutes a picture: the one that is timed is the one that is checked
        _, logits = benchmark.pedantic(worker.ask, picture, rounds=1)
    else:
        error = check_output(worker.name, worker.ask("pictures", WARMUP, 0.0)[1], inputs)
        _, logits = benchmark(worker.ask, *picture)
    error = max(error, check_output(worker.name, logits, inputs))
    facts = worker.facts | worker.ask("resources", not once) | {"max_abs_error": error}
    benchmark.extra_info |= extra_info(worker.name, inputs, benchmark.stats.stats.data, **facts)


@pytest.mark.benchmark(group="an empty round trip: contained in every time above")
def test_empty_round_trip(inputs, benchmark):
    with Worker(VERSIONS[1], inputs) as worker:
        benchmark(worker.ask, "nothing")
