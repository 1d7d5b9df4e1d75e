"""How the time of one picture grows with its size, and shrinks with threads."""

from bench import network, results
from bench.check import WrongOutput, check_logits
from bench.inputs import picture, reference
from bench.worker import Worker, WorkerError

SIZE_GROUP, THREAD_GROUP = "scaling, image size", "scaling, threads"
SIZES = (64, 96, 128, 160, 192, 224, 256, 320, 384, 448)
LONGEST = 30.0  # seconds; a size at which one picture would take longer is left out


class Scaling:
    """The points measured so far: `benchmarks` and `failed`."""

    def __init__(self, weights_dir, budget, say):
        self.weights_dir, self.budget, self.say = weights_dir, budget, say
        self.benchmarks, self.failed = [], []
        self.references = {}

    def sizes(self, names, sizes, threads):
        """Every contender at every size, smallest first."""
        for name in names:
            seconds_per_flop = 0.0
            for size in sorted(sizes):
                if seconds_per_flop * network.flops(size) > LONGEST:
                    break
                point = self.point(SIZE_GROUP, name, size, threads)
                if point is None:
                    break
                seconds_per_flop = point["stats"]["median"] / network.flops(size)

    def threads(self, names, size, counts):
        """Every contender with every number of threads."""
        for name in names:
            for count in counts:
                self.point(THREAD_GROUP, name, size, count)

    def point(self, group, name, size, threads):
        """Measure one point and return it, or note the failure and return None."""
        label = f"{name}, {size} pixels, {results.plural(threads, 'thread')}"
        self.say(label)
        image = picture(size)
        if size not in self.references:
            self.references[size] = reference(self.weights_dir, image)
        try:
            with Worker(name, self.weights_dir, image, threads) as worker:
                seconds, error = timed(worker, self.references[size], self.budget)
                used = worker.facts["threads"]
        except (WorkerError, WrongOutput) as error:
            self.failed.append(results.failure(label, group, str(error)))
            return None
        self.benchmarks.append(results.entry(label, group, seconds, version=name, image_size=size, threads=used,
                                             max_abs_error=error, flops=network.flops(size)))
        return self.benchmarks[-1]


def timed(worker, right, budget):
    """Check, then time for about `budget` seconds, then check again. Return (seconds of each round, largest error)."""
    first, _, logits = worker.run(1)
    error = check_logits(logits, right)
    if budget < 2 * first[0]:
        return first, error
    seconds, _, logits = worker.run(2 + min(50, int(budget / first[0])))
    return seconds[1:], max(error, check_logits(logits, right))


def thread_counts(cores):
    """1, 2, 3, 4, 6, 8, 12, 16, ... up to and including `cores`."""
    counts = {power * base for base in (2, 3) for power in (1, 2, 4, 8, 16, 32, 64, 128)}
    return sorted({1, cores} | {count for count in counts if count < cores})
