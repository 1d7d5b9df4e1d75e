"""Results files: pytest-benchmark's JSON, written and read.

A file holds `machine_info`, `commit_info`, `datetime`, `benchmarks` and, beyond pytest-benchmark's own keys,
`failed`: contenders that were not timed, and why. A benchmark's `group` is its experiment ("latency",
"race, 1 thread", ...), its `extra_info` all that is not a time. Times are seconds.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest_benchmark
from pytest_benchmark.stats import Stats

from bench import machine


class ResultsError(Exception):
    """A results file cannot be used. The message is one line."""


def entry(name, group, seconds, **extra_info):
    """One benchmark in pytest-benchmark's form. seconds: every round's."""
    stats = Stats()
    for duration in seconds:
        stats.update(duration)
    times = stats.as_dict() | {"data": list(seconds), "iterations": 1}
    return {"group": group, "name": name, "fullname": f"{group}/{name}", "params": None, "param": None,
            "extra_info": extra_info, "options": {}, "stats": times}


def failure(name, group, reason):
    """A contender that was not timed."""
    return {"name": name, "group": group, "reason": reason}


def document(benchmarks, failed, machine_info, **settings):
    """A whole results file. settings: image_size, weights, what else the experiment was run with."""
    return {
        "machine_info": machine_info,
        "commit_info": machine.commit_info(),
        "benchmarks": benchmarks,
        "datetime": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": pytest_benchmark.__version__,
        "failed": failed,
        "settings": settings,
    }


def merge(documents):
    """One document with every benchmark of `documents`; the rest is the first one's."""
    first, *others = documents
    merged = dict(first)
    for other in others:
        merged["benchmarks"] = merged["benchmarks"] + other["benchmarks"]
        merged["failed"] = merged["failed"] + other["failed"]
    return merged


def save(results, path):
    """Write the file whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(rounded(results), indent=1) + "\n")
    os.replace(unfinished, path)


def load(path):
    """Read a results file. Raises ResultsError if there is none or it is something else."""
    try:
        results = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot read the results file {path}: {error}") from None
    if not isinstance(results, dict) or not isinstance(results.get("benchmarks"), list):
        raise ResultsError(f"{path} is no results file: it has no list of benchmarks")
    return {"failed": [], "settings": {}, "machine_info": {}} | results


def group(results, name):
    """The benchmarks of one experiment, in the order in which they were run."""
    return [benchmark for benchmark in results["benchmarks"] if benchmark["group"] == name]


def plural(count, noun):
    return f"{count} {noun}{'s' if count > 1 else ''}"


def rounded(value):
    """Floats cut to seven digits: the rest of a time is noise, and doubles the file."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value
