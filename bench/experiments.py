"""What is measured besides latency: races, throughput, scaling, the layers' profile. They return what `race` does."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from bench import peers
from bench.check import WrongOutput, check_output
from bench.inputs import Inputs, make_inputs
from bench.profile import medians
from bench.race import CALLS, SLOW, Entrant, race, say
from bench.results import entry, extra_info
from bench.worker import Worker, WorkerError
from common.architecture import flops, layers
from common.machine import available_cores
from common.versions import VERSIONS, load_version

SIZES = (64, 128, 192, 224, 320, 448)
TURN = 0.2  # seconds at least: after a stop, small pictures on two threads get faster for some 15 ms
LONGEST = 30.0  # seconds; a size at which one picture would take longer is left out
ONE_THREAD = VERSIONS[:5]  # those that have no use for a second one
NUMPY = VERSIONS[1:4]  # those that convolve by a matrix product of NumPy's
WINOGRAD = [layer.name for layer in layers() if layer.kernel == 3]  # that may convolve so


def race_group(threads: int) -> str:
    return f"race, {plural(threads, 'thread')}"


def races(
    inputs: Inputs, threads: int | None, names: Sequence[str] = (), rounds: int = 15, everyone=False
) -> list[dict]:
    """A race on `threads`, else one on one thread and one on all cores. v1 runs once, in the last.

    v1 and v2 are left out unless named, or unless everyone takes part.
    """
    names = names or [*VERSIONS[0 if everyone else 2 :], *peers.installed()]
    counts = [threads] if threads else sorted({1, available_cores()})
    entries = []
    for threads in counts:
        racing = {name: Entrant(name, threads) for name in names if name != VERSIONS[0] or threads == counts[-1]}
        entries += race(racing, inputs, race_group(threads), rounds, calls=CALLS)
    return entries


def throughput(inputs: Inputs, cores: int | None, names: Sequence[str] = ()) -> list[dict]:
    """Pictures a second: all cores on one picture, where that is possible, and one picture for each core.

    A core with a picture of its own waits for nobody, but every process holds the weights anew and each picture takes
    as long as one core takes. v1, whose picture takes minutes, and PyTorch, the slowest engine, are left out unless
    named.
    """
    engines = [name for name in peers.installed() if not name.startswith("torch")]
    names, cores = names or [*VERSIONS[1:], *engines], cores or available_cores()
    entrants = [Entrant(name, cores) for name in names if cores > 1 and name not in ONE_THREAD]
    entrants += [Entrant(name, 1, cores) for name in names]
    named = {f"{e.version}, {e.processes} × {plural(e.threads, 'thread')}": e for e in entrants}
    return race(named, inputs, "throughput", rounds=3, duration=1.5)


def instruction_sets(inputs: Inputs, threads: int | None, names: Sequence[str] = (), rounds: int = 15) -> list[dict]:
    """Versions 5 to 9 in every instruction set that this machine has; and version 4, for comparison.

    Version 5 on one thread, version 6 on all cores, the others on both.
    """
    entrants, cores = {}, threads or available_cores()
    for name in names or VERSIONS[3:]:
        counts = {1} if name in ONE_THREAD else {cores} if name == VERSIONS[5] else {1, cores}
        for count in sorted(counts):
            for isa in load_version(name).compiler.Compiler().isas if name in VERSIONS[4:] else [None]:
                label = ", ".join([name, plural(count, "thread"), *([isa] if isa else [])])
                entrants[label] = Entrant(name, count, isa=isa)
    return race(entrants, inputs, "instruction sets", rounds, duration=TURN)


def scaling(inputs: Inputs, cores: int | None, names: Sequence[str] = (), sizes: Sequence[int] = SIZES) -> list[dict]:
    """Time against threads, for those that can use more than one; then against the picture's size.

    v1, whose picture takes half a minute at 64 pixels, and v8, which calibrates itself for each size, are left out
    unless named.
    """
    names, cores = names or [*VERSIONS[1:7], *VERSIONS[8:]], cores or available_cores()
    points = {
        f"{name}, {plural(threads, 'thread')}": Entrant(name, threads)
        for name in names
        if name not in ONE_THREAD
        for threads in sorted({1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, cores})
        if threads <= cores
    }
    entries = race(points, inputs, "scaling, threads", rounds=15, duration=TURN, cache=True)
    seconds_per_flop = dict.fromkeys(names, 0.0)
    for size in sorted(sizes):
        fast = [name for name in names if seconds_per_flop[name] * flops(size) <= LONGEST]
        entrants = {f"{name}, {size} pixels": Entrant(name, cores) for name in fast}
        resized = make_inputs(size, inputs.weights)
        found = race(entrants, resized, "scaling, image size", rounds=5, duration=TURN, cache=True)
        for extra in (item["extra_info"] for item in found if "reason" not in item):
            seconds_per_flop[extra["version"]] = extra["p50"] / extra["flops"]
        entries += found
    return entries


def profiles(inputs: Inputs, threads: int | None, names: Sequence[str] = (), rounds: int = 15) -> list[dict]:
    """The layers' times of each version, all versions taking turns."""
    workers, entries, found = {}, [], defaultdict(list)
    try:
        for name in names or VERSIONS[1:]:
            say(f"profile of {name}")
            try:
                workers[name] = Worker(name, inputs, threads or available_cores(), trace=True)
                (first,), logits = workers[name].ask("pictures", 1, 0.0)
                workers[name].error = check_output(name, logits, inputs)
                workers[name].rounds = rounds if first < SLOW else 1
                workers[name].pause()
            except (WorkerError, WrongOutput) as reason:
                entries.append({"group": "profile", "name": name, "reason": str(reason)})
                if name in workers:
                    workers.pop(name).close()
        for turn in range(rounds):
            for name, worker in list(workers.items()):
                try:
                    if turn < worker.rounds:
                        worker.resume()
                        products = worker.ask("products") if name in NUMPY else None
                        found[name].append([*worker.ask("profile"), products, worker.ask("peak")])
                        worker.pause()
                except WorkerError as reason:
                    entries.append({"group": "profile", "name": name, "reason": str(reason)})
                    workers.pop(name).close()
        for name, worker in workers.items():
            totals, parts, products, peaks = zip(*found[name])
            rest = median(total - sum(part.values()) for total, part in zip(totals, parts))  # between the parts
            facts = worker.facts | {"max_abs_error": worker.error, "parts": medians(parts), "rest": rest}
            facts["peaks"] = peaks
            if name in NUMPY:
                facts["products"] = median(products)  # alone
            if name in VERSIONS[5:7]:  # whose difference is in these layers
                facts["turns"] = {layer: [of_layer(part, layer) for part in parts] for layer in WINOGRAD}
            entries.append(entry(name, "profile", totals, extra_info(name, inputs, totals, **facts)))
    finally:
        for worker in workers.values():
            worker.close()
    return entries


def objects(inputs: Inputs) -> list[dict]:
    """Version 1's layers as they are, and with their numbers in order in memory. A picture each: minutes."""
    entries = []
    for name, in_order in (("as it is", False), ("in order", True)):
        say(f"version 1, {name}")
        try:
            with Worker(VERSIONS[0], inputs, trace=True, in_order=in_order) as worker:
                seconds, logits = worker.ask("pictures", 1, 0.0)
                error, (parts, adjacent) = check_output(VERSIONS[0], logits, inputs), worker.ask("parts")
            facts = {"max_abs_error": error, "parts": medians([parts]), "adjacent": adjacent}
            entries.append(entry(name, "objects", seconds, extra_info(VERSIONS[0], inputs, seconds, **facts)))
        except (WorkerError, WrongOutput) as reason:
            entries.append({"group": "objects", "name": name, "reason": str(reason)})
    return entries


def of_layer(parts: dict[tuple[str, str], float], layer: str) -> float:
    return sum(seconds for (name, _), seconds in parts.items() if name == layer)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count > 1 else ''}"
