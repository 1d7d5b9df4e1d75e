"""Many pictures at once: one picture over all cores against one picture per core.

Latency and throughput are different goals. A core with a picture of its own waits for nobody, but every process
holds the weights anew and each picture takes as long as one core takes.
"""

import os

from bench import results
from bench.check import WrongOutput, check_logits
from common.versions import VERSIONS
from bench.worker import Worker, WorkerError

GROUP = "throughput"


class Team:
    """`processes` contenders of one kind, with `threads` threads each, that work at the same time."""

    def __init__(self, name, processes, threads, inputs):
        weights_dir, image, reference = inputs
        self.name, self.processes, self.threads = name, processes, threads
        self.label = label(name, processes, threads)
        self.workers, self.error, self.spans, self.memory = [], 0.0, [], 0
        try:
            for number in range(processes):
                self.workers.append(Worker(name, weights_dir, image, threads, cores=own_cores(number, threads)))
                _, _, logits = self.workers[-1].run(1)
                self.error = max(self.error, check_logits(logits, reference))
        except BaseException:
            self.close()
            raise
        self.pause()

    def pause(self):
        for worker in self.workers:
            worker.pause()

    def work(self, duration):
        """All work for `duration` seconds; the rates of the processes add up."""
        for worker in self.workers:
            worker.resume()
        for worker in self.workers:
            worker.run_for(duration)
        done = [worker.finish() for worker in self.workers]
        self.memory = sum(worker.resources(count_allocations=False)["peak_memory"] for worker in self.workers)
        self.pause()
        self.spans.append(done)

    def entry(self, flops):
        """Times are seconds a picture of the whole team; `latency` is that of one picture in its process."""
        rates = [sum(pictures / seconds for pictures, seconds in done) for done in self.spans]
        latency = [seconds / pictures for done in self.spans for pictures, seconds in done]
        return results.entry(
            self.label, GROUP, [1 / rate for rate in rates], version=self.name, processes=self.processes,
            threads=self.threads, max_abs_error=self.error, peak_memory=self.memory, flops=flops,
            latency=sorted(latency)[len(latency) // 2],
        )

    def close(self):
        for worker in self.workers:
            worker.close()


def own_cores(number, threads):
    """Return the cores of process `number`: some engines bind their threads to the first ones that they may use."""
    here = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return here[number * threads : (number + 1) * threads] or None


def arrangements(names, cores):
    """(name, processes, threads) to compare: all cores on one picture, where that is possible; a picture per core."""
    together = [(name, 1, cores) for name in names if cores > 1 and name not in VERSIONS[:-1]]
    return together + [(name, cores, 1) for name in names]


def measure(wanted, inputs, rounds, duration, flops, say, report):
    """Let the teams take turns, then `report(benchmarks, failed)`. Who fails costs only its own row."""
    teams, failed = {}, []

    def guarded(name, act):
        try:
            act()
        except (WorkerError, WrongOutput) as error:
            failed.append(results.failure(name, GROUP, str(error)))
            if name in teams:
                teams.pop(name).close()

    def start(name, processes, threads):
        team = Team(name, processes, threads, inputs)
        teams[team.label] = team

    try:
        for arrangement in wanted:
            say(f"starting {label(*arrangement)}")
            guarded(label(*arrangement), lambda arrangement=arrangement: start(*arrangement))
        for turn in range(rounds):
            for name, team in list(teams.items()):
                say(f"round {turn + 1} of {rounds}: {name}")
                guarded(name, lambda team=team: team.work(duration))
    finally:
        report([team.entry(flops) for team in teams.values() if team.spans], failed)
        for team in teams.values():
            team.close()


def label(name, processes, threads):
    return f"{name}, {processes} × {results.plural(threads, 'thread')}"
