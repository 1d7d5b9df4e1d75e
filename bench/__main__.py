"""The benchmark's command line: `python -m bench --help`."""

import argparse
import sys
from pathlib import Path

from bench import commands, readme, scaling
from bench.inputs import InputError, available_cores
from bench.peers import PEERS
from bench.results import ResultsError
from common.versions import DIRECT, ROOT, VERSIONS


def main():
    arguments = parse_arguments()
    try:
        return arguments.act(arguments)
    except (InputError, ResultsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return commands.INTERRUPTED


def parse_arguments():
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmark the six versions of ResNet-50.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, act, help_text):
        command = subparsers.add_parser(name, help=help_text, description=help_text)
        command.set_defaults(act=act)
        return command

    run = add("run", commands.run_latency, "time one picture in each version")
    run.add_argument("names", nargs="*", type=version, metavar="VERSION", help="all six unless given")
    race = add("race", commands.run_race, "versions and other engines, taking turns")
    throughput = add("throughput", commands.run_throughput, "one picture over all cores against one per core")
    size = add("scaling", commands.run_scaling, "time against image size, and against threads")
    size.add_argument("--sizes", nargs="+", type=image_size, default=scaling.SIZES, metavar="PIXELS")
    for command in (race, throughput, size):
        command.add_argument("names", nargs="*", type=contender, metavar="CONTENDER", help=", ".join(PEERS))
    profile = add("profile", commands.run_profile, "where a version's time goes, layer by layer")
    profile.add_argument("names", nargs="+", type=version, metavar="VERSION")
    reference = add("reference", commands.run_reference, "every experiment, and all pictures")
    for command in (run, race, throughput, size, profile, reference):
        command.add_argument("--size", type=image_size, default=224, help="of the picture in pixels (default: 224)")
        command.add_argument("--threads", type=positive, default=None if command is race else available_cores(),
                             help="default: all cores" + (" and, in a race of its own, one" if command is race else ""))
        command.add_argument("--weights", type=Path, metavar="DIR", help="default: the exported ones, else synthetic")
        command.add_argument("--out", type=Path, metavar="FILE", help="where the results go")
    for command, default in ((run, 5.0), (size, 2.0)):
        command.add_argument("--budget", type=float, default=default, metavar="SECONDS",
                             help="of timing for each measurement (default: %(default)s)")
    for command, default in ((race, 15), (throughput, 5), (profile, 15)):
        command.add_argument("--rounds", type=positive, default=default, help="default: %(default)s")

    plot = add("plot", commands.run_plot, "draw a results file's pictures beside it")
    table = add("table", commands.run_table, "rewrite the tables between markers in Markdown files")
    for command in (plot, table):
        command.add_argument("--results", type=Path, default=commands.REFERENCE, metavar="FILE")
    table.add_argument("files", nargs="*", type=Path, default=readme.marked(ROOT), metavar="FILE",
                       help="default: the README and all articles that have markers")
    compare = add("compare", commands.run_compare, "two results files side by side")
    compare.add_argument("before", type=Path, nargs="?", default=commands.REFERENCE, help="default: %(default)s")
    compare.add_argument("after", type=Path, nargs="?", help="default: the last run")
    return parser.parse_args()


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


def image_size(text):
    if int(text) < 32:
        raise argparse.ArgumentTypeError(f"{text} pixels; the network takes pictures of at least 32")
    return int(text)


def version(text):
    """A version's name or its beginning: v5 for v5_codegen."""
    return named(text, VERSIONS)


def contender(text):
    return named(text, (*VERSIONS, *DIRECT, *PEERS))


def named(text, names):
    for name in names:
        if text in (name, name.split("_")[0]):
            return name
    raise argparse.ArgumentTypeError(f"there is no {text!r}; choose from {', '.join(names)}")


if __name__ == "__main__":
    sys.exit(main())
