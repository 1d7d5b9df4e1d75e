"""Results files: pytest-benchmark's JSON, written and read. bench/README.md has the table of what is in one."""

import json
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest_benchmark
from pytest_benchmark.stats import Stats
from pytest_benchmark.utils import get_commit_info

from bench.inputs import Inputs, source
from bench.machine import machine_info, slug
from bench.peers import precision
from common.versions import ROOT

RUNS = ROOT / "bench" / "results" / "runs"
MACHINES = ROOT / "bench" / "results"  # a file for each processor, of one run of everything


class ResultsError(Exception):
    """A results file cannot be used. The message is one line."""


def extra_info(version: str, inputs: Inputs, pictures: Sequence[float], **facts: object) -> dict:
    """All of an entry that is not pytest-benchmark's own. pictures: seconds of each timed picture."""
    quantiles = dict(zip(("p50", "p95", "p99"), np.percentile(pictures, (50, 95, 99)).tolist()))
    return {
        "version": version,
        "precision": precision(version),
        "calls": len(pictures),
        "image_size": inputs.size,
        "flops": inputs.flops,
        "gflops": inputs.flops / quantiles["p50"] / 1e9,
    } | (quantiles | facts)


def entry(name: str, group: str, rounds: Iterable[float], extra: dict) -> dict:
    """One benchmark in pytest-benchmark's form. rounds: seconds a picture, of every round."""
    stats = Stats()
    for seconds in rounds:
        stats.update(seconds)
    named = {"group": group, "name": name, "fullname": f"{group}/{name}", "params": None, "param": None, "options": {}}
    extra = extra | {"commit": get_commit_info()["id"][:10]}
    return named | {"extra_info": extra, "stats": stats.as_dict() | {"data": stats.data, "iterations": 1}}


def update(path: Path, entries: list[dict], peak: dict, inputs: Inputs) -> dict:
    """Put an experiment's entries in the file at `path`, in place of those of the same groups, and return all.

    Those with a "reason" were not timed. peak: the machine's; the best of all measurements is
    kept. Raises ResultsError if the file is another machine's, or about other pictures.
    """
    new = {
        "machine_info": machine_info(),
        "settings": {"image_size": inputs.size, "weights": source(inputs.weights)},
        "commit_info": get_commit_info(),
        "datetime": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": pytest_benchmark.__version__,
        "peak": peak,
    }
    old = load(path) if path.is_file() else {"benchmarks": [], "failed": []} | new
    for key in ("machine_info", "settings"):
        if different := [name for name, value in new[key].items() if old[key].get(name) != value]:
            raise ResultsError(
                f"{path}: another {different[0]} was measured; move the file away, or name one with --out"
            )
    new["peak"] = {name: max(value, old["peak"].get(name, 0.0)) for name, value in peak.items()}
    groups = {entry["group"] for entry in entries}
    entries = [entry for entry in old["benchmarks"] + old["failed"] if entry["group"] not in groups] + entries
    new["benchmarks"] = [entry for entry in entries if "reason" not in entry]
    new["failed"] = [entry for entry in entries if "reason" in entry]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Floats cut to five digits: the rest of a time is noise, and doubles the file.
    new = json.loads(json.dumps(new), parse_float=lambda text: float(f"{float(text):.5g}"))
    partial = path.with_name(f".{path.name}.{os.getpid()}")  # a full disk must not cost what was measured before
    try:
        partial.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return new


def load(path: Path) -> dict:
    """Read a results file. Raises ResultsError if there is none or it is something else."""
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
        results["benchmarks"], results["failed"], results["peak"], results["settings"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, LookupError) else type(error).__name__
        raise ResultsError(f"{path} is no results file of `python -m bench` ({reason})") from None
    return results


def of_this_machine() -> Path:
    return MACHINES / f"{slug(machine_info())}.json"


def of_all_machines() -> list[dict]:
    """What the repository carries, the newest first."""
    return sorted(map(load, MACHINES.glob("*.json")), key=lambda results: results["datetime"], reverse=True)


def of_page(page: Path) -> Path:
    """The file that a page's tables are made from unless another is named. Raises ResultsError."""
    return of_the_ladder() if page.stem in ("ladder", "caches") else of_the_readme()


def of_the_readme() -> Path:
    """A processor with AVX-512 whose times differ least from run to run; else the newest. Raises ResultsError."""
    return chosen("amd-epyc-family-26-model-2.json")


def of_the_ladder() -> Path:
    """A processor with AVX2 and nothing wider, whose registers and caches these articles are about; else the newest."""
    return chosen("amd-epyc-family-25-model-1.json")


def chosen(name: str) -> Path:
    """That machine's results, or those of the machine that was measured last. Raises ResultsError if none was."""
    if (MACHINES / name).is_file():
        return MACHINES / name
    if files := list(MACHINES.glob("*.json")):
        return max(files, key=lambda path: load(path)["datetime"])
    raise ResultsError(f"no results in {MACHINES}; `python -m bench reference` measures some")


def group(results: dict, name: str) -> list[dict]:
    """The entries of one experiment in the order in which they were run: name, extra_info and stats in one dict."""
    found = [benchmark for benchmark in results["benchmarks"] if benchmark["group"] == name]
    return [{"name": benchmark["name"]} | benchmark["extra_info"] | benchmark["stats"] for benchmark in found]
