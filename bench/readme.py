"""The tables of the README and the articles, rewritten between markers from a results file.

`<!-- bench:NAME -->` and `<!-- /bench:NAME -->` enclose what is generated; NAME is one of SECTIONS.
"""

import os
import re
from functools import partial
from pathlib import Path

from bench import network, report
from bench.race import group_name, ratio
from bench.report import MISSING, factor, milliseconds, number
from bench.results import ResultsError, group, plural
from bench.scaling import THREAD_GROUP
from common.versions import DIRECT, VERSIONS


def latency(results):
    """The six versions, and the published figures of the project that inspired them."""
    lines = ["| step | one picture, ms | × previous | × v1 | GFLOP/s | of peak | allocates, MiB | start-up, s |",
             "|---|--:|--:|--:|--:|--:|--:|--:|"]
    for row in report.rows(results):
        if "reason" in row:
            lines.append(f"| `{row['name']}` | not timed: {row['reason']} |||||||")
            continue
        cells = (milliseconds(row["median"]), factor(row["times_previous"]), factor(row["times_first"]),
                 f"{row['flops'] / 1e9:.3g}", report.percent(row["of_peak"]), number(row.get("array_bytes"), 2**20),
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
    found = [sentence for count, entries in races.items() if (sentence := lead(entries, count))]
    return "\n".join([*lines, "", *found])


def lead(entries, threads):
    """How version 5, or 6 on several threads, compares with the fastest engine, round by round."""
    timed = {name: b for name, b in entries.items() if b["extra_info"]["threads"] == threads}
    engines = [b for name, b in timed.items() if name not in (*VERSIONS, *DIRECT)]
    ours = VERSIONS[4 if threads == 1 else 5]
    if not engines or ours not in timed:
        return None
    engine = min(engines, key=lambda b: b["stats"]["median"])
    return (f"On {plural(threads, 'thread')} `{ours}` is **{ratio(engine, timed[ours]):.2f} times** as fast as the "
            f"fastest engine, {engine['name']} (median over the rounds' ratios).")


def race_cell(benchmark, threads):
    """A version that has no use for a second thread is not shown in a race of two."""
    if benchmark is None or benchmark["extra_info"]["threads"] != threads:
        return MISSING
    return milliseconds(benchmark["stats"]["median"])


def environment(results):
    commit = results["commit_info"].get("id", "")[:10]
    return f"Measured on {report.machine_line(results)}; commit {commit}, {results['datetime'][:10]}."


def step(results, version):
    """One version beside the one before it, a column each, and what the step was worth in a sentence."""
    shown = VERSIONS[max(0, VERSIONS.index(version) - 1) : VERSIONS.index(version) + 1]
    found = {row["name"]: row for row in report.rows(results) if row["name"] in shown}
    if any(name not in found or "reason" in found[name] for name in shown):
        return "Not measured: " + ", ".join(f"`{name}`" for name in shown if "median" not in found.get(name, {})) + "."
    columns = [found[name] for name in shown]
    lines = [f"| | {' | '.join(f'`{name}`' for name in shown)} |", "|---|" + "--:|" * len(shown)]
    lines += [f"| {heading} | {' | '.join(map(cell, columns))} |" for heading, cell in STEP_ROWS.items()]
    return "\n".join([*lines, "", worth(found[version]), "", environment(results)])


STEP_ROWS = {
    "one picture, ms": lambda row: milliseconds(row["median"]),
    "GFLOP/s": lambda row: f"{row['flops'] / 1e9:.3g}",
    "of the peak of the cores in use": lambda row: f"{row['of_peak']:.2%}",
    "arrays allocated": lambda row: number(row.get("arrays")),
    "allocated, MiB": lambda row: number(row.get("array_bytes"), 2**20),
    "page faults": lambda row: number(row.get("faults")),
    "most memory held, MiB": lambda row: number(row.get("peak_memory"), 2**20),
    "largest error of a logit": lambda row: f"{row['max_abs_error']:.0e}",
    "start-up, s": lambda row: f"{row['startup_seconds']:.1f}",
}


def worth(row):
    """The factor of a step, whichever way it went."""
    if row["times_previous"] is None:
        return "The other versions are measured against this one."
    if row["times_previous"] < 1:
        return f"**The step is slower**: {1 / row['times_previous']:.2f} times the time of the version before."
    return f"**The step is worth a factor of {factor(row['times_previous']).rstrip('×')}.**"


def operators(results):
    """Where the time of the profiled versions goes, milliseconds an operator."""
    sums = {}
    for benchmark in group(results, "profile"):
        for part in benchmark["extra_info"]["parts"]:
            own = sums.setdefault(part["operator"], {})
            own[benchmark["name"]] = own.get(benchmark["name"], 0.0) + part["seconds"]
    names = [benchmark["name"] for benchmark in group(results, "profile") if benchmark["name"] in VERSIONS[:4]]
    lines = [f"| operator, ms | {' | '.join(f'`{name}`' for name in names)} |", "|---|" + "--:|" * len(names)]
    for operator, own in sums.items():
        if own.keys() & set(names):
            cells = [milliseconds(own[name]) if name in own else MISSING for name in names]
            lines.append(f"| `{operator}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def ceilings(results):
    """What the machine can do at most: the two roofs and the intensity at which they meet."""
    peak, cores = results["machine_info"]["peak"], results["machine_info"]["cores"]
    lines = ["| | arithmetic, GFLOP/s | reading memory, GB/s | the roofs meet at, FLOP a byte |", "|---|--:|--:|--:|"]
    for count, suffix in {1: "_1", cores: "" if cores > 1 else "_1"}.items():
        flops, bandwidth = peak[f"flops{suffix}"], peak[f"bandwidth{suffix}"]
        cells = f"{flops / 1e9:.0f} | {bandwidth / 1e9:.1f} | {flops / bandwidth:.0f}"
        lines.append(f"| {plural(count, 'core')} | {cells} |")
    caches = results["machine_info"].get("caches") or {}
    sizes = ", ".join(f"{name} {size}" for name, size in caches.items()) or "unknown"
    return "\n".join([*lines, "", f"Caches: {sizes}.", "", environment(results)])


def threads(results):
    """Version 6 on more and more threads: the speed-up, and the serial share that it means (Amdahl 1967)."""
    points = {b["extra_info"]["threads"]: b["stats"]["median"] for b in group(results, THREAD_GROUP)
              if b["extra_info"]["version"] == VERSIONS[-1]}
    if 1 not in points:
        return f"Not measured: `{VERSIONS[-1]}` on one thread."
    lines = ["| threads | one picture, ms | speed-up | serial share |", "|--:|--:|--:|--:|"]
    for count, seconds in sorted(points.items()):
        share = MISSING if count == 1 else f"{serial_share(points[1], seconds, count):.1%}"
        lines.append(f"| {count} | {milliseconds(seconds)} | {factor(points[1] / seconds)} | {share} |")
    return "\n".join(lines)


def winograd(results):
    """The 3x3 convolutions with stride 1 in version 5, with Winograd's convolution and without."""
    profiles = {b["name"]: report.by_layer(b["extra_info"]["parts"]) for b in group(results, "profile")}
    direct, codegen = (profiles.get(name) for name in ("v5_direct", "v5_codegen"))
    if not (direct and codegen):
        return "Not measured: a profile of `v5_direct` and `v5_codegen`."
    lines = ["| layers | direct, ms | with Winograd, ms | of it the input's transform, ms | ratio |",
             "|---|--:|--:|--:|--:|"]
    shapes = {}
    for layer in network.layers(results["settings"]["image_size"]):
        if (layer.kernel, layer.stride) == (3, 1):
            shapes.setdefault(layer.in_shape, []).append(layer.name)
    for shape, names in shapes.items():
        before, after = ([part for part in parts if part["layer"] in names] for parts in (direct, codegen))
        old, new = (sum(part["seconds"] for part in parts) / len(names) for parts in (before, after))
        transform = sum(part["operators"].get("transform", 0) for part in after) / len(names)
        cells = [milliseconds(old), milliseconds(new), milliseconds(transform) if transform else MISSING,
                 f"{new / old:.2f}"]
        lines.append(f"| {len(names)} of {'×'.join(map(str, shape))} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *gains(results)])


def gains(results):
    """The whole network with Winograd's convolution over that without, from the races: a sentence for each."""
    found = []
    for (direct, name), threads in zip(DIRECT.items(), (1, results["machine_info"]["cores"])):
        timed = {b["name"]: b for b in group(results, group_name(threads))}
        if {direct, name} <= timed.keys():
            found.append(f"The whole network on {plural(threads, 'thread')}: `{name}` takes "
                         f"{ratio(timed[name], timed[direct]):.2f} of the time of `{direct}`.")
    return found


def serial_share(alone, together, threads):
    """Solve Amdahl's law, together = alone (s + (1 - s) / threads), for s; below 0 where caches help more than that."""
    return (threads * together / alone - 1) / (threads - 1)


SECTIONS = {"table": latency, "race": race, "machine": environment, "operators": operators, "ceilings": ceilings,
            "threads": threads, "winograd": winograd}
SECTIONS |= {version.split("_")[0]: partial(step, version=version) for version in VERSIONS}


def marked(root):
    """The README and the articles below `root` that have sections to fill."""
    pages = [root / "README.md", *sorted(root.glob("docs/*.md")), *sorted(root.glob("v*/README.md"))]
    return [page for page in pages if page.is_file() and "<!-- bench:" in page.read_text(encoding="utf-8")]


def rewrite(path, results):
    """Fill the marked sections of the file at `path`. Raises ResultsError if a marker is missing or unknown."""
    text = Path(path).read_text(encoding="utf-8")
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
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
