"""All that takes turns, and what is made of its results: `python -m bench --help`. Latency alone: `pytest bench`."""

import argparse
import sys
from datetime import datetime
from functools import partial
from pathlib import Path

from bench import ablations, caches, experiments, kernel_tables, ladder, results, sections, tables
from bench.accuracy import accuracy
from bench.batches import measured_batches
from bench.inputs import SYNTHETIC, InputError, make_inputs
from bench.peak import measured_peak
from bench.peers import PEERS
from common.machine import available_cores
from common.versions import ROOT, VERSIONS, named
from training.pictures import DataError

# {command: (help, what runs it, the tables that it prints)}
EXPERIMENTS = {
    "race": (
        "versions and other engines, taking turns",
        lambda inputs, a: experiments.races(inputs, a.threads, a.names, a.rounds, a.command == "reference"),
        lambda found: [tables.race(found)],
    ),
    "profile": (
        "where a version's time goes, layer by layer",
        lambda inputs, a: experiments.profiles(inputs, a.threads, a.names, a.rounds),
        lambda found: [tables.profile(found, row["name"]) for row in results.group(found, "profile")],
    ),
    "throughput": (
        "pictures a second: one process a core against one picture on all cores",
        lambda inputs, a: experiments.throughput(inputs, a.threads, a.names),
        lambda found: [tables.throughput(found)],
    ),
    "batches": (
        "pictures a second of engines that compute several together",
        lambda inputs, a: measured_batches(inputs, a.threads or available_cores()),
        lambda found: [tables.batches(found)],
    ),
    "scaling": (
        "time against threads, and against the picture's size",
        lambda inputs, a: experiments.scaling(inputs, a.threads, a.names, a.sizes),
        lambda found: [tables.threads(found), tables.sizes(found)],
    ),
    "objects": (
        "version 1 as it is, and with the objects that its lists hold in order in memory (minutes)",
        lambda inputs, a: experiments.objects(inputs),
        lambda found: [tables.objects(found)],
    ),
    "isas": (
        "versions 5 to 9 in every instruction set that this machine has, and version 4 beside them",
        lambda inputs, a: experiments.instruction_sets(inputs, a.threads, a.names, a.rounds),
        lambda found: [tables.instruction_sets(found), tables.int8_instruction_sets([found])],
    ),
    "ablations": (
        "what a part of a version is worth: copies with that part changed, and the version as it is",
        lambda inputs, a: ablations.ablations(inputs, a.threads, a.names, a.rounds),
        lambda found: [tables.ablations(found, name) for name in ablations.named_in(found)],
    ),
    "ladder": (
        "one layer, from a plain loop nest to the versions' kernels; NAME: an instruction set",
        lambda inputs, a: ladder.climb(inputs, a.names, a.rounds),
        lambda found: [kernel_tables.ladder(found), kernel_tables.tiles(found), kernel_tables.chains(found)],
    ),
    "caches": (
        "how long a load takes, against how much is read and from where",
        lambda inputs, a: caches.survey(inputs, a.rounds),
        lambda found: [
            kernel_tables.cache_sizes(found),
            kernel_tables.cache_sets(found),
            kernel_tables.cache_pages(found),
        ],
    ),
    "accuracy": (
        "labelled pictures named right, in float32 and in int8; --data names the pictures",
        lambda inputs, a: accuracy(a.data, a.names),
        lambda found: [tables.accuracy(found)],
    ),
}


def measure(arguments: argparse.Namespace, chosen: list[str], out: Path) -> int:
    """Run experiments one by one, each stored when it is done, and print their tables. Return the exit status."""
    inputs = make_inputs(arguments.size, arguments.weights)
    if arguments.data and "race" in chosen and "accuracy" not in chosen:
        chosen = ["accuracy", *chosen]
    elif "accuracy" in chosen and not arguments.data:
        raise InputError("the accuracy is measured on labelled pictures: --data tiny-imagenet-200")
    failed = False
    for name in chosen:
        _, run, shown = EXPERIMENTS[name]
        results.update(out, [], measured_peak(), inputs)  # refuses another machine's file before the minutes
        entries = run(inputs, arguments)
        failed |= any("reason" in entry for entry in entries)
        found = results.update(out, entries, measured_peak(), inputs)
        for table in [*shown(found), tables.environment(found)]:
            if text := table.text("simple"):
                print(text, end="\n\n")
    print(f"results: {out}")
    return int(failed)


def act(arguments: argparse.Namespace) -> int:
    names, command = arguments.names, arguments.command
    if command == "plot":
        from bench.plots import LADDER, PICTURES, draw_all  # matplotlib takes a second to load; most commands need none

        published = [(results.of_the_readme(), PICTURES), (results.of_the_ladder(), LADDER)]
        for chosen, pictures in [(arguments.results, PICTURES | LADDER)] if arguments.results else published:
            print(*draw_all(results.load(chosen), chosen.parent, pictures), sep="\n")
    elif command == "table":
        for path in map(Path, names) if names else sections.marked(ROOT):
            sections.rewrite(path, results.load(arguments.results or results.of_page(path)))
            print(path)
    elif command == "reference":
        every = [name for name in EXPERIMENTS if name != "accuracy" or arguments.data]  # else what is stored stays
        arguments.names, chosen = (), [named(EXPERIMENTS, name) for name in names or every]
        arguments.weights = arguments.weights or SYNTHETIC  # the same on every machine
        return measure(arguments, chosen, arguments.out or results.of_this_machine())
    else:
        if names and command in ("batches", "caches", "objects"):
            raise argparse.ArgumentTypeError(f"{command} takes no names")
        choices = {"ladder": ladder.V5.compiler.ISAS, "isas": VERSIONS[3:], "ablations": ablations.ABLATIONS}
        arguments.names = [named(choices.get(command, (*VERSIONS, *PEERS)), name) for name in names]
        default = f"{datetime.now():%Y%m%d-%H%M%S}-{command}.json"
        return measure(arguments, [command], arguments.out or results.RUNS / default)
    return 0


def parser() -> argparse.ArgumentParser:
    texts = [f"{name}: {text}" for name, (text, *_) in EXPERIMENTS.items()]
    texts.append("reference: all of these, for the results that the repository carries, or those named, anew")
    texts += ["plot: draw a results file's pictures beside it", "table: rewrite the tables between markers in Markdown"]
    description = "\n".join([__doc__, *texts])
    made = argparse.ArgumentParser("python -m bench", None, description, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("command", choices=(*EXPERIMENTS, "reference", "plot", "table"), metavar="COMMAND")
    made.add_argument("names", nargs="*", metavar="NAME", help="versions and engines, experiments, or Markdown files")
    made.add_argument("--size", type=image_size, default=224, help="of the picture in pixels (default: 224)")
    made.add_argument("--sizes", type=image_size, nargs="+", default=experiments.SIZES, help="of scaling")
    made.add_argument("--threads", type=thread_count, help="default: all cores; of a race: one, then all")
    made.add_argument("--weights", type=Path, metavar="FILE", help="default: the exported ones, else synthetic")
    made.add_argument("--data", type=Path, metavar="DIR", help="labelled pictures: the accuracy of all in int8, too")
    made.add_argument(
        "--rounds", type=partial(within, 1, 10_000), default=15, help="of a race or a profile (default: 15)"
    )
    made.add_argument("--out", type=Path, metavar="FILE", help="where the results go")
    made.add_argument("--results", type=Path, metavar="FILE", help="of plot and table (default: the published ones)")
    return made


def within(least: int, most: int, text: str) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from {least} to {most}")
    return int(text)


image_size = partial(within, 32, 10_000)
thread_count = partial(within, 1, available_cores())


def main() -> int:
    try:
        return act(parser().parse_intermixed_args())
    except (DataError, InputError, results.ResultsError, argparse.ArgumentTypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # what a shell expects of a program that Ctrl-C ended


if __name__ == "__main__":
    sys.exit(main())
