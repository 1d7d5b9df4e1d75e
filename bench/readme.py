"""The README's tables, rewritten between markers from a results file.

`<!-- bench:NAME -->` and `<!-- /bench:NAME -->` enclose what is generated; NAME is one of SECTIONS.
"""

import os
import re
from pathlib import Path

from bench import report
from bench.race import group_name
from bench.report import MISSING, factor, milliseconds, number
from bench.results import ResultsError, group, plural


def latency(results):
    """The six versions, and the published figures of the project that inspired them."""
    lines = ["| step | one picture, ms | × previous | × v1 | GFLOP/s | of peak | allocates, MiB | start-up, s |",
             "|---|--:|--:|--:|--:|--:|--:|--:|"]
    for row in report.rows(results):
        if "reason" in row:
            lines.append(f"| `{row['name']}` | not timed: {row['reason']} |||||||")
            continue
        cells = (milliseconds(row["median"]), factor(row["times_previous"]), factor(row["times_first"]),
                 f"{row['flops'] / 1e9:.3g}", f"{row['of_peak']:.1%}", number(row.get("array_bytes"), 2**20),
                 f"{row['startup_seconds']:.1f}")
        lines.append(f"| `{row['name']}` | {' | '.join(cells)} |")
    lines += ["", f"{report.published()['label']}: {report.published_note()}."]
    return "\n".join(lines)


def race(results):
    """Every race in the file, a column each: median times, and the ratio to the fastest other engine."""
    counts = sorted({b["extra_info"]["threads"] for b in results["benchmarks"] if b["group"].startswith("race, ")})
    races = {count: {b["name"]: b for b in group(results, group_name(count))} for count in counts}
    names = dict.fromkeys(name for entries in races.values() for name in entries)
    heads = [f"{plural(count, 'thread')}, ms" for count in counts]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "--:|" * len(counts)]
    for name in names:
        cells = [race_cell(entries.get(name), count) for count, entries in races.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def race_cell(benchmark, threads):
    """A version that has no use for a second thread is not shown in a race of two."""
    if benchmark is None or benchmark["extra_info"]["threads"] != threads:
        return MISSING
    return milliseconds(benchmark["stats"]["median"])


def environment(results):
    commit = results["commit_info"].get("id", "")[:10]
    return f"Measured on {report.machine_line(results)}; commit {commit}, {results['datetime'][:10]}."


SECTIONS = {"table": latency, "race": race, "machine": environment}


def rewrite(path, results):
    """Fill the marked sections of the file at `path`. Raises ResultsError if a marker is missing or unknown."""
    text = Path(path).read_text()
    names = re.findall(r"<!-- bench:(\w+) -->", text)
    if not names:
        raise ResultsError(f"{path} has no marker <!-- bench:table --> … <!-- /bench:table -->")
    for name in names:
        section = re.compile(f"(<!-- bench:{name} -->\n).*?(<!-- /bench:{name} -->)", re.DOTALL)
        if name not in SECTIONS or len(section.findall(text)) != 1:
            raise ResultsError(f"{path}: the section bench:{name} is unknown, not closed or there twice")
        written = SECTIONS[name](results)
        text = section.sub(lambda match, written=written: f"{match[1]}\n{written}\n\n{match[2]}", text)
    unfinished = Path(f"{path}.unfinished")
    unfinished.write_text(text)
    os.replace(unfinished, path)
