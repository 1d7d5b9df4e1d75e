"""The benchmark's command line: python -m bench [run|race|...]; `--help` lists all."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from bench import machine, network, report, results
from bench.inputs import InputError, available_cores, picture, reference, source, weights_directory
from bench.peers import PEERS
from bench.race import ENGINES, Race, group_name
from bench.versions import ROOT, VERSIONS

RUNS = ROOT / "bench" / "results" / "runs"


def main():
    arguments = parse_arguments()
    try:
        return arguments.command(arguments)
    except (InputError, results.ResultsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parse_arguments():
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmark the six versions.")
    commands = parser.add_subparsers(required=True)
    race = commands.add_parser("race", help="versions and other engines, taking turns")
    race.add_argument("names", nargs="*", type=contender, default=None)
    race.add_argument("--rounds", type=positive, default=15)
    race.set_defaults(command=run_race)
    for command in (race,):
        command.add_argument("--size", type=positive, default=224)
        command.add_argument("--threads", type=positive, default=available_cores())
        command.add_argument("--weights", type=Path)
        command.add_argument("--out", type=Path)
    return parser.parse_args()


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


def contender(text):
    """A version's name or its beginning ("v5"), or a peer's name."""
    for name in (*VERSIONS, *PEERS):
        if text == name or text == name.split("_")[0]:
            return name
    raise argparse.ArgumentTypeError(f"there is no {text!r}; choose from {', '.join((*VERSIONS, *PEERS))}")


def measured_peak(cores):
    """The machine's ceilings, measured in a process of their own."""
    done = subprocess.run([sys.executable, "-m", "bench.peak", str(cores)], capture_output=True, text=True, cwd=ROOT)
    return json.loads(done.stdout)


def run_race(arguments):
    console = Console()
    weights = weights_directory(arguments.weights)
    image = picture(arguments.size)
    names = arguments.names or [*VERSIONS[2:], *ENGINES]
    peak = measured_peak(arguments.threads)
    with console.status("race") as status:
        race = Race(weights, image, reference(weights, image), arguments.threads, say=status.update)
        try:
            race.run(names, arguments.rounds)
        except KeyboardInterrupt:
            console.print("stopped early")
    benchmarks, failed = race.entries(network.flops(arguments.size))
    found = results.document(benchmarks, failed, machine.machine_info(arguments.threads, peak),
                             image_size=arguments.size, weights=source(weights))  # fmt: skip
    results.save(found, arguments.out or RUNS / "race.json")
    name = group_name(arguments.threads)
    console.print(report.race_table(found, name))
    console.print(report.ratio_table(found, name))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
