"""Contenders that take turns: a drifting machine then hits all alike, and ratios are formed within each round.

All are built and checked first. Whoever is not running is stopped (SIGSTOP): an engine's spinning threads would
otherwise slow down whatever runs next.
"""

import os
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.check import WrongOutput, check_output
from bench.inputs import Inputs
from bench.results import entry, extra_info
from bench.worker import Worker, WorkerError
from common.versions import ROOT, VERSIONS

SLOW = 5.0  # seconds; a contender whose first picture takes longer is timed by that picture alone
PICTURES = 3  # a turn: the first brings caches and clock speed back and is not timed
CALLS = 500  # timed in all of a race for each who takes less than QUICK: a p99 needs them
QUICK = 0.1  # seconds


class Entrant(NamedTuple):
    """A version or engine, its threads, and in how many processes of that many threads it works at once.

    isa: the instruction set of a version that has a choice; the best unless given. root: the directory that holds the
    version's.
    """

    version: str
    threads: int = 1
    processes: int = 1
    isa: str | None = None
    root: Path = ROOT


class Contender:
    """An entrant's processes, and what they have shown so far.

    `rounds`: seconds a picture of all together. `peaks`, of our versions: FLOP a second of multiply-adds alone, just
    after each round's pictures.
    """

    def __init__(self, entrant: Entrant, inputs: Inputs, cache: bool):
        self.entrant, self.inputs = entrant, inputs
        self.workers, self.error, self.rounds, self.pictures, self.peaks = [], 0.0, [], [], []
        try:
            here = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
            for first in range(0, entrant.processes * entrant.threads, entrant.threads):
                # Some engines bind their threads to the first cores that they may use: each process gets its own.
                cores = here[first : first + entrant.threads] if entrant.processes > 1 else None
                options = {"cache": cache, "isa": entrant.isa, "root": entrant.root}
                self.workers.append(Worker(entrant.version, inputs, entrant.threads, cores, **options))
            times = self.run(1, 0.0)
            self.slow = max(times)[0] > SLOW
            if self.slow:
                self.note(times)
            else:
                self.quick = median(self.run(PICTURES, 0.0)[0]) < QUICK
        except BaseException:
            self.close()
            raise

    def run(self, pictures: int, duration: float) -> list[list[float]]:
        """All processes at once: `pictures` each and as many more as fit `duration` seconds. Return all times."""
        for worker in self.workers:
            worker.resume()
            worker.request("pictures", pictures, duration)
        times, outputs = zip(*[worker.reply() for worker in self.workers])
        for worker in self.workers:
            worker.pause()
        self.error = max(self.error, *(check_output(self.entrant.version, logits, self.inputs) for logits in outputs))
        return times

    def note(self, times: list[list[float]]) -> None:
        self.rounds.append(1 / sum(len(seconds) / sum(seconds) for seconds in times))
        self.pictures += [second for seconds in times for second in seconds]
        if self.entrant.version in VERSIONS and self.entrant.processes == 1:
            self.workers[0].resume()
            self.peaks.append(self.workers[0].ask("peak"))
            self.workers[0].pause()

    def take_turn(self, least: int, duration: float) -> None:
        """least: pictures, if it is quick."""
        if not self.slow:
            self.note([seconds[1:] for seconds in self.run(least if self.quick else PICTURES, duration)])

    def entry(self, name: str, group: str) -> dict:
        for worker in self.workers:
            worker.resume()
        found = [worker.ask("resources", not self.slow) for worker in self.workers]
        facts = self.workers[0].facts | found[0]
        facts["peak_memory"] = sum(resources["peak_memory"] for resources in found)
        facts |= {"processes": self.entrant.processes, "max_abs_error": self.error}
        facts["gflops"] = self.inputs.flops / median(self.rounds) / 1e9
        facts |= {"peaks": self.peaks} if self.peaks else {}
        facts |= {"isa": self.entrant.isa} if self.entrant.isa else {}
        return entry(name, group, self.rounds, extra_info(self.entrant.version, self.inputs, self.pictures, **facts))

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


def race(
    entrants: dict[str, Entrant],
    inputs: Inputs,
    group: str,
    rounds: int,
    duration: float = 0.0,
    calls: int = 0,
    cache: bool = False,
) -> list[dict]:
    """Build all, check them, let them take turns. What goes wrong with one takes it out of the race, nobody else.

    entrants: by the names of their rows. duration: seconds of a turn, PICTURES at least. calls: timed pictures of
    those that are quick, at least. cache: whether compiled code may come from an earlier start. Returns entries of a
    results file, and {"group", "name", "reason"} of who failed.
    """
    racing, entries, found, names = {}, [], {}, list(entrants)
    try:
        for turn in range(rounds + 2):
            say(f"{group}: " + ("start", f"round {turn} of {rounds}", "done")[(turn > 0) + (turn > rounds)])
            for name in [names[(turn + place) % len(names)] for place in range(len(names))]:
                try:
                    if turn == 0:
                        racing[name] = Contender(entrants[name], inputs, cache)
                    elif turn <= rounds:
                        racing[name].take_turn(max(PICTURES, -(-calls // rounds) + 1), duration)
                    else:
                        found[name] = racing[name].entry(name, group)
                except (WorkerError, WrongOutput) as error:
                    say(f"{group}: {name}: {error}")
                    entries.append({"group": group, "name": name, "reason": str(error)})
                    names.remove(name)
                    if name in racing:
                        racing[name].close()
        return entries + [found[name] for name in names]
    finally:
        for contender in racing.values():
            contender.close()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
