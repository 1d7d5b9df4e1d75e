"""A race between versions and other engines, interleaved: all are built, then take turns round after round.

A drifting machine then hits all alike, and ratios are formed within each round. pytest-benchmark cannot interleave;
this loop writes the same JSON. Whoever is not running is stopped (SIGSTOP): an engine's spinning threads would
otherwise slow down whatever runs next.
"""

from statistics import median

from bench import results
from bench.check import WrongOutput, check_logits
from bench.worker import Worker, WorkerError

PICTURES = 3  # a turn: the first brings caches and clock speed back and is not timed


class Race:
    """Contenders by name, and what they have shown so far."""

    def __init__(self, weights_dir, image, reference, threads, say):
        self.weights_dir, self.image, self.reference = weights_dir, image, reference
        self.threads, self.say = threads, say
        self.workers, self.rounds, self.errors, self.failed = {}, {}, {}, {}

    def run(self, names, rounds):
        """Build, check, race. Ctrl-C ends it early; `entries` tells what there is by then."""
        try:
            for name in names:
                self.guarded(name, self.enter)
            for turn in range(rounds):
                order = names[turn % len(names) :] + names[: turn % len(names)]
                for name in order:
                    if name in self.workers:
                        self.guarded(name, self.take_turn)
                self.say(f"round {turn + 1} of {rounds}")
        finally:
            for worker in self.workers.values():
                worker.close()

    def guarded(self, name, act):
        """What goes wrong with one contender takes it out of the race, and nobody else."""
        try:
            act(name)
        except (WorkerError, WrongOutput) as error:
            self.failed[name] = str(error)
            self.say(f"{name}: {error}")
            if name in self.workers:
                self.workers.pop(name).close()

    def enter(self, name):
        self.say(f"{name}: starting")
        worker = self.workers[name] = Worker(name, self.weights_dir, self.image, self.threads)
        _, _, logits = worker.run(1)
        self.errors[name] = check_logits(logits, self.reference)
        self.rounds[name] = []
        worker.pause()

    def take_turn(self, name):
        worker = self.workers[name]
        worker.resume()
        seconds, _, logits = worker.run(PICTURES)
        worker.pause()
        self.errors[name] = max(self.errors[name], check_logits(logits, self.reference))
        self.rounds[name].append(seconds[1:])

    def entries(self, flops):
        """The results: (benchmarks, failed). flops: of one picture."""
        name_of_race = group_name(self.threads)
        benchmarks = [
            results.entry(name, name_of_race, [s for turn in rounds for s in turn], max_abs_error=self.errors[name],
                          threads=self.workers[name].facts["threads"], flops=flops,
                          startup_seconds=self.workers[name].facts["startup_seconds"],
                          rounds=[median(turn) for turn in rounds])
            for name, rounds in self.rounds.items() if rounds and name not in self.failed
        ]
        return benchmarks, [results.failure(name, name_of_race, why) for name, why in self.failed.items()]


def group_name(threads):
    return f"race, {results.plural(threads, 'thread')}"


def ratio(one, other):
    """How many times as long `one` takes as `other`: the median of the rounds' own ratios."""
    pairs = zip(one["extra_info"]["rounds"], other["extra_info"]["rounds"])
    return median(a / b for a, b in pairs)
