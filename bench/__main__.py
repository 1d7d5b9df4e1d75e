"""All that takes turns, and what is made of its results: `python -m bench --help`. Latency alone: `pytest bench`."""

import argparse
import sys
from datetime import datetime
from functools import partial
from pathlib import Path

from bench import experiments, results, tables
from bench.inputs import InputError, make_inputs
from bench.peak import measured_peak
from bench.peers import PEERS
from common.machine import available_cores
from common.versions import ROOT, VERSIONS

HELP = {
    "race": "versions and other engines, taking turns",
    "profile": "where a version's time goes, layer by layer",
    "throughput": "pictures a second: one process a core against one picture on all cores",
    "scaling": "time against threads, and against the picture's size",
}
SHOWN = {
    "race": lambda found: [tables.race(found)],
    "profile": lambda found: [tables.profile(found, b["name"]) for b in results.group(found, "profile")],
    "throughput": lambda found: [tables.throughput(found)],
    "scaling": lambda found: [tables.threads(found), tables.sizes(found)],
}


def measure(arguments: argparse.Namespace) -> int:
    """Run experiments one by one, each stored when it is done, and print their tables. Return the exit status."""
    inputs, cores = make_inputs(arguments.size, arguments.weights), arguments.threads or available_cores()
    chosen = vars(arguments).get("only", [arguments.command])
    counts = [arguments.threads] if arguments.threads else sorted({1, cores})
    run = {
        "race": partial(experiments.races, inputs, counts, arguments.names, arguments.rounds),
        "profile": partial(experiments.profiles, inputs, cores, arguments.names, arguments.rounds),
        "throughput": partial(experiments.throughput, inputs, cores, arguments.names),
        "scaling": partial(experiments.scaling, inputs, cores, arguments.names, arguments.sizes),
    }
    out = arguments.out or results.RUNS / f"{datetime.now():%Y%m%d-%H%M%S}-{arguments.command}.json"
    for experiment in chosen:
        peak = measured_peak()
        benchmarks, failed = run[experiment]()
        peak = {what: max(value, peak[what]) for what, value in measured_peak().items()}
        found = results.update(out, benchmarks, failed, peak, inputs)
        for table in SHOWN[experiment](found):
            print(table.text("simple"), end="\n\n")
    print(tables.environment(found).text("simple"), f"results: {out}", sep="\n")
    return 1 if found["failed"] else 0


def draw(arguments: argparse.Namespace) -> int:
    from bench.plots import draw_all  # matplotlib takes a second to load, and most commands draw nothing

    for path in draw_all(results.load(arguments.results), arguments.results.parent):
        print(f"drawn: {path}")
    return 0


def write_tables(arguments: argparse.Namespace) -> int:
    found = results.load(arguments.results)
    for path in arguments.files or tables.marked(ROOT):
        tables.rewrite(path, found)
        print(f"{path}: tables from {arguments.results}")
    return 0


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = whole.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, text in (HELP | {"reference": "all of them, for the results that the repository carries"}).items():
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(act=measure, names=(), sizes=experiments.SIZES, out=None)
        command.add_argument("--size", type=image_size, default=224, help="of the picture in pixels (default: 224)")
        command.add_argument("--threads", type=thread_count, help="default: all cores; a race: one, then all")
        command.add_argument("--weights", type=Path, metavar="FILE", help="default: the exported ones, else synthetic")
        command.add_argument("--rounds", type=int, default=15, help="of a race or a profile (default: 15)")
        command.add_argument("--out", type=Path, metavar="FILE", help="where the results go")
        if name in HELP:
            known = VERSIONS if name == "profile" else (*VERSIONS, *PEERS)
            command.add_argument("names", nargs="*", type=partial(named, known), metavar="NAME", help=", ".join(known))
        if name == "scaling":
            command.add_argument("--sizes", nargs="+", type=image_size, metavar="PIXELS")
        if name == "reference":
            command.set_defaults(out=results.REFERENCE)
            command.add_argument(
                "--only", nargs="+", choices=HELP, default=list(HELP), help="these anew, the rest stays"
            )
    for name, act, text in (
        ("plot", draw, "draw a results file's pictures beside it"),
        ("table", write_tables, "rewrite the tables between markers in Markdown files"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(act=act)
        command.add_argument("--results", type=Path, default=results.REFERENCE, metavar="FILE")
        if name == "table":
            command.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: all that have markers")
    return whole


def image_size(text: str) -> int:
    if int(text) < 32:
        raise argparse.ArgumentTypeError(f"{text} pixels; the network takes pictures of at least 32")
    return int(text)


def thread_count(text: str) -> int:
    if not 1 <= int(text) <= available_cores():
        raise argparse.ArgumentTypeError(f"{text} threads; this process may use 1 to {available_cores()}")
    return int(text)


def named(known: tuple[str, ...], text: str) -> str:
    """A name or its beginning: v5 for v5_codegen."""
    for name in known:
        if text in (name, name.split("_")[0]):
            return name
    raise argparse.ArgumentTypeError(f"there is no {text!r}; choose from {', '.join(known)}")


def main() -> int:
    arguments = parser().parse_args()
    try:
        return arguments.act(arguments)
    except (InputError, results.ResultsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # what a shell expects of a program that Ctrl-C ended


if __name__ == "__main__":
    sys.exit(main())
