"""What each command of `python -m bench` does. Every one returns the exit status."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from importlib.util import find_spec
from shutil import which

from rich.console import Console
from rich.live import Live

from bench import compare, latency, machine, network, readme, report, results, scaling, throughput
from bench.check import WrongOutput, check_logits
from bench.inputs import InputError, available_cores, picture, reference, source, weights_directory
from bench.live import Display
from bench.peers import MODULES
from bench.race import Race, group_name
from common.versions import DIRECT, ROOT, VERSIONS
from bench.worker import Worker, WorkerError

RUNS = ROOT / "bench" / "results" / "runs"
REFERENCE = ROOT / "bench" / "results" / "reference.json"
SLOW = 5.0  # seconds a picture, from which a profile is of one picture
INTERRUPTED = 130  # what a shell expects of a program that Ctrl-C ended


class Run:
    """What the experiments have in common: inputs, machine, the screen, and what has been found."""

    def __init__(self, arguments, kind):
        # The file is named because pytest's output is kept from the terminal by exchanging sys.stdout.
        self.console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
        self.kind, self.out, self.size, self.threads = kind, arguments.out, arguments.size, arguments.threads
        if self.threads > available_cores():
            raise InputError(f"{self.threads} threads, but this process may use {available_cores()} cores")
        self.weights = weights_directory(arguments.weights)
        self.image = picture(self.size)
        self.reference = reference(self.weights, self.image)
        self.inputs = (self.weights, self.image, self.reference)
        self.flops = network.flops(self.size, len(self.reference))
        self.benchmarks, self.failed, self.interrupted = [], [], False
        self.machine = machine.machine_info(self.threads, {})
        self.measure_peak()

    def measure_peak(self):
        """Measure what the machine can do at most. The best of all calls counts: a machine may be slow for minutes."""
        with self.console.status("measuring what the machine can do at most"):
            found, before = measured_peak(self.threads), self.machine["peak"]
        self.machine["peak"] = found | {key: max(value, found[key]) for key, value in before.items()}
        return found

    def wait_for_quiet(self, share=0.95, patience=120.0, clock=time.monotonic):
        """Measure the peak until it comes near the best so far, for `patience` seconds at most.

        A virtual machine's neighbours come and go; what is measured while they compute says little.
        """
        give_up = clock() + patience
        while True:
            found, best = self.measure_peak(), self.machine["peak"]
            if all(found[key] >= share * best[key] for key in ("flops", "flops_1")) or clock() >= give_up:
                return

    def document(self, benchmarks=None, failed=None):
        """The results file's content; of all so far unless told of what."""
        benchmarks, failed = (self.benchmarks, self.failed) if benchmarks is None else (benchmarks, failed)
        return results.document(benchmarks, failed, self.machine, image_size=self.size, threads=self.threads,
                                weights=source(self.weights))

    def add(self, benchmarks, failed):
        self.benchmarks += benchmarks
        self.failed += failed

    @contextmanager
    def experiment(self):
        """Yields a function that shows what is being done. Ctrl-C ends the experiment; what it found is kept."""
        with Live(console=self.console, transient=True, auto_refresh=False) as live:
            try:
                yield lambda text: live.update(text, refresh=self.console.is_terminal)
            except KeyboardInterrupt:
                self.interrupted = True

    def finish(self, *tables):
        """Print the tables, store the results, say where, and return the exit status."""
        for table in tables:
            self.console.print(table)
        self.console.print(report.machine_line(self.document()), style="dim")
        path = self.out or RUNS / f"{datetime.now():%Y%m%d-%H%M%S}-{self.kind}.json"
        results.save(self.document(), path)
        self.console.print(f"results: {path}", soft_wrap=True)
        if self.interrupted:
            self.console.print("stopped early; the above is what was measured by then")
            return INTERRUPTED
        return 1 if self.failed else 0


def measured_peak(cores):
    """The machine's ceilings, measured in a process of their own."""
    command = [sys.executable, "-m", "bench.peak", str(cores)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout)


def installed_engines():
    """The other engines that can run here."""
    engines = [name for name, modules in MODULES.items() if all(find_spec(module) for module in modules)]
    compiler = os.environ.get("CXX") or which("g++") or which("clang++")
    return [name for name in engines if name != "torch-compiled" or compiler]


def run_latency(arguments):
    run = Run(arguments, "latency")
    measure_latency(run, arguments.names or VERSIONS, arguments.budget)
    return run.finish(report.latency_table(run.document(), run.console.width))


def measure_latency(run, names, budget):
    def table(benchmarks, failed):
        return report.latency_table(run.document(benchmarks, failed), run.console.width)

    with Display(run.console, network.progress(run.size), table) as display:
        experiment = latency.Experiment(sorted(names), run.inputs, run.threads, budget, ROOT, display)
        try:
            latency.measure(experiment)
        except KeyboardInterrupt:
            run.interrupted = True
    run.add(experiment.benchmarks, experiment.failed)


def run_race(arguments):
    """One race on one thread each and one on all cores, unless told on how many."""
    counts = [arguments.threads] if arguments.threads else sorted({1, available_cores()})
    arguments.threads = counts[-1]
    run = Run(arguments, "race")
    names = arguments.names or [*VERSIONS[2:], *DIRECT, *installed_engines()]
    for threads in counts:
        if not run.interrupted:
            measure_race(run, names, arguments.rounds, threads)
    found, groups = run.document(), [group_name(threads) for threads in counts]
    return run.finish(*(table(found, group) for group in groups for table in (report.race_table, report.ratio_table)))


def measure_race(run, names, rounds, threads):
    with run.experiment() as say:
        race = Race(*run.inputs, threads, say)
        try:
            race.run(names, rounds)
        finally:
            run.add(*race.entries(run.flops))


def run_throughput(arguments):
    run = Run(arguments, "throughput")
    measure_throughput(run, arguments.names or VERSIONS[3:], arguments.rounds)
    return run.finish(report.throughput_table(run.document()))


def measure_throughput(run, names, rounds, duration=1.0):
    wanted = throughput.arrangements(names, run.threads)
    with run.experiment() as say:
        throughput.measure(wanted, run.inputs, rounds, duration, run.flops, say, run.add)


def run_scaling(arguments):
    run = Run(arguments, "scaling")
    measure_scaling(run, arguments.names or VERSIONS, arguments.sizes, arguments.budget)
    tables = [report.scaling_table(run.document(), scaling.SIZE_GROUP, "image_size"),
              report.scaling_table(run.document(), scaling.THREAD_GROUP, "threads")]
    return run.finish(*tables)


def measure_scaling(run, names, sizes, budget):
    threaded = [name for name in names if name not in VERSIONS[:-1]]
    with run.experiment() as say:
        points = scaling.Scaling(run.weights, budget, say)
        try:
            points.threads(threaded, run.size, scaling.thread_counts(run.threads))
            points.sizes(names, sizes, run.threads)
        finally:
            run.add(points.benchmarks, points.failed)


def run_profile(arguments):
    run = Run(arguments, "profile")
    measure_profile(run, arguments.names, arguments.rounds)
    found = run.document()
    timed = [benchmark["name"] for benchmark in run.benchmarks]
    for failed in run.failed:
        run.console.print(f"[red]{failed['name']}: {failed['reason']}[/red]")
    tables = [make(found, name) for name in timed for make in (report.profile_table, report.operator_table)]
    return run.finish(*tables)


def measure_profile(run, names, rounds):
    with run.experiment() as say:
        for name in names:
            say(f"profile of {name}")
            try:
                with Worker(name, run.weights, run.image, run.threads, trace=True) as worker:
                    (first,), _, logits = worker.run(1)
                    error = check_logits(logits, run.reference)
                    seconds, parts = worker.profile(rounds if first < SLOW else 1)
                    facts = worker.facts
            except (WorkerError, WrongOutput) as reason:
                run.failed.append(results.failure(name, "profile", str(reason)))
                continue
            run.benchmarks.append(results.entry(name, "profile", seconds, parts=parts, threads=facts["threads"],
                                                max_abs_error=error, flops=run.flops))


def run_reference(arguments):
    """Every experiment, for the results file and the pictures that the repository carries."""
    arguments.out = arguments.out or REFERENCE
    run = Run(arguments, "reference")
    engines = installed_engines()
    experiments = [
        lambda: measure_latency(run, VERSIONS[:1], budget=10.0),  # minutes: the others wait for a quiet machine
        lambda: measure_latency(run, VERSIONS[1:], budget=10.0),
        *(lambda threads=threads: measure_race(run, [*VERSIONS[2:], *DIRECT, *engines], 15, threads)
          for threads in sorted({1, run.threads})),
        lambda: measure_profile(run, [*VERSIONS[2:4], "v5_direct", *VERSIONS[4:]], rounds=15),
        lambda: measure_throughput(run, [*VERSIONS[3:], *engines[-1:]], rounds=5),
        lambda: measure_scaling(run, VERSIONS, scaling.SIZES, budget=2.0),
    ]
    for experiment in experiments:
        if not run.interrupted:
            run.wait_for_quiet()
            experiment()
    found = run.document()
    tables = [report.latency_table(found, run.console.width)]
    tables += [report.race_table(found, group_name(threads)) for threads in sorted({1, run.threads})]
    tables += [report.throughput_table(found), report.scaling_table(found, scaling.SIZE_GROUP, "image_size"),
               report.scaling_table(found, scaling.THREAD_GROUP, "threads")]
    status = run.finish(*tables)
    draw(run.out)
    return status


def draw(path):
    """Draw a results file's pictures beside it."""
    from bench import plots  # matplotlib takes a second to load, and most commands draw nothing

    for drawn in plots.draw_all(results.load(path), path.parent):
        print(f"drawn: {drawn}")


def last_run():
    stored = sorted(RUNS.glob("*.json"))
    if not stored:
        raise results.ResultsError(f"no runs in {RUNS} yet; make one: make bench")
    return stored[-1]


def run_plot(arguments):
    draw(arguments.results)
    return 0


def run_table(arguments):
    found = results.load(arguments.results)
    for path in arguments.files:
        readme.rewrite(path, found)
        print(f"{path}: tables from {arguments.results}")
    return 0


def run_compare(arguments):
    arguments.after = arguments.after or last_run()
    before, after = (results.load(path) for path in (arguments.before, arguments.after))
    console = Console()
    for line in compare.machine_differences(before, after):
        console.print(f"[yellow]not the same environment: {line}[/yellow]")
    console.print(compare.comparison_table(before, after, (arguments.before.stem, arguments.after.stem)))
    return 0
