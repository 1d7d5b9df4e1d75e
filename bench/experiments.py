"""What is measured besides latency: races, throughput, scaling, the layers' profile. Each returns race.Found."""

from collections.abc import Sequence

from bench import peers
from bench.check import WrongOutput, check_logits
from bench.inputs import Inputs, make_inputs
from bench.race import SLOW, Entrant, Found, race, say
from bench.results import entry, extra_info
from bench.worker import Worker, WorkerError
from common.architecture import flops
from common.versions import VERSIONS

SIZES = (64, 96, 128, 160, 192, 224, 256, 320, 384, 448)
LONGEST = 30.0  # seconds; a size at which one picture would take longer is left out
ONE_THREAD = VERSIONS[:5]  # those that have no use for a second one


def race_group(threads: int) -> str:
    return f"race, {plural(threads, 'thread')}"


def races(inputs: Inputs, counts: Sequence[int], names: Sequence[str] = (), rounds: int = 15) -> Found:
    """A race for each number of threads. v1 runs on one thread and once: in the last race, beside the others."""
    names = names or [*VERSIONS, *peers.installed()]
    benchmarks, failed = [], []
    for threads in counts:
        racing = [name for name in names if name != VERSIONS[0] or threads == counts[-1]]
        found = race({name: Entrant(name, threads) for name in racing}, inputs, race_group(threads), rounds)
        benchmarks, failed = benchmarks + found[0], failed + found[1]
    return benchmarks, failed


def throughput(inputs: Inputs, cores: int, names: Sequence[str] = (), rounds: int = 5, duration: float = 1.5) -> Found:
    """Pictures a second: all cores on one picture, where that is possible, and one picture for each core.

    A core with a picture of its own waits for nobody, but every process holds the weights anew and each picture takes
    as long as one core takes. v1, whose picture takes minutes, is left out unless named.
    """
    names = names or [*VERSIONS[1:], *peers.installed()]
    entrants = [Entrant(name, cores) for name in names if cores > 1 and name not in ONE_THREAD]
    entrants += [Entrant(name, 1, cores) for name in names]
    named = {f"{e.version}, {e.processes} × {plural(e.threads, 'thread')}": e for e in entrants}
    return race(named, inputs, "throughput", rounds, duration)


def scaling(inputs: Inputs, cores: int, names: Sequence[str] = (), sizes: Sequence[int] = SIZES) -> Found:
    """Time against threads, for those that can use more than one; then against the picture's size."""
    names = names or VERSIONS
    points = {
        f"{name}, {plural(threads, 'thread')}": Entrant(name, threads)
        for name in names
        if name not in ONE_THREAD
        for threads in thread_counts(cores)
    }
    benchmarks, failed = race(points, inputs, "scaling, threads", rounds=15, cache=True)
    seconds_per_flop = dict.fromkeys(names, 0.0)
    for size in sorted(sizes):
        fast = [name for name in names if seconds_per_flop[name] * flops(size) <= LONGEST]
        entrants = {f"{name}, {size} pixels": Entrant(name, cores) for name in fast}
        found = race(entrants, make_inputs(size, inputs.weights), "scaling, image size", rounds=5, cache=True)
        for benchmark in found[0]:
            extra = benchmark["extra_info"]
            seconds_per_flop[extra["version"]] = extra["p50"] / extra["flops"]
        benchmarks, failed = benchmarks + found[0], failed + found[1]
    return benchmarks, failed


def profiles(inputs: Inputs, threads: int, names: Sequence[str] = (), rounds: int = 15) -> Found:
    """The layers' times of each version."""
    benchmarks, failed = [], []
    for name in names or VERSIONS[1:]:
        say(f"profile of {name}")
        try:
            with Worker(name, inputs, threads, trace=True) as worker:
                (first,), logits = worker.ask("pictures", 1, 0.0)
                error = check_logits(logits, inputs.logits)
                seconds, parts = worker.ask("profile", rounds if first < SLOW else 1)
                facts = {"threads": worker.facts["threads"], "max_abs_error": error, "parts": parts}
        except (WorkerError, WrongOutput) as reason:
            failed.append({"group": "profile", "name": name, "reason": str(reason)})
            continue
        benchmarks.append(entry(name, "profile", seconds, extra_info(name, inputs, seconds, **facts)))
    return benchmarks, failed


def thread_counts(cores: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... up to and including `cores`."""
    counts = {power * base for base in (2, 3) for power in (1, 2, 4, 8, 16, 32, 64, 128)}
    return sorted({1, cores} | {count for count in counts if count < cores})


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count > 1 else ''}"
