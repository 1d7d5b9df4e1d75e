"""Results as tables: on the terminal with rich, in the README as Markdown."""

import json
from pathlib import Path

from rich.table import Table

from bench.race import ratio
from bench.results import group

PUBLISHED = Path(__file__).with_name("published.json")
MISSING = "–"


def peak_flops(results, cores):
    """The measured ceiling, FLOP/s, of one core or of all in use."""
    peak = results["machine_info"]["peak"]
    return peak["flops_1"] if cores == 1 else peak["flops"]


def latency_table(results):
    """One row a version in step order; what was not timed says why."""
    table = Table(title=title(results), title_justify="left")
    table.add_column("version")
    for heading in ("median ms", "min", "IQR", "images/s", "× previous", "× v1", "GFLOP/s", "% of peak",
                    "max error", "arrays", "faults", "MiB", "start-up s"):  # fmt: skip
        table.add_column(heading, justify="right")
    for row in rows(results):
        if row.get("reason"):
            table.add_row(row["name"], f"[red]not timed: {row['reason']}[/red]")
        else:
            table.add_row(row["name"], *latency_cells(row))
    return table


def title(results):
    settings = results["settings"]
    size = settings.get("image_size", "?")
    return f"ResNet-50, one {size}×{size} picture, float32 (weights: {settings.get('weights', '?')})"


def rows(results, of="latency"):
    """One dict a contender: the numbers of its row, or the reason why it has none; versions in step order."""
    timed = group(results, of)
    first = next((b["stats"]["median"] for b in timed if b["name"].startswith("v1")), None)
    found, previous = [], None
    for benchmark in timed:
        stats, extra = benchmark["stats"], benchmark["extra_info"]
        flops = extra["flops"] / stats["median"]
        found.append(extra | {
            "name": benchmark["name"], "median": stats["median"], "min": stats["min"], "iqr": stats["iqr"],
            "timed": stats["rounds"], "flops": flops, "of_peak": flops / peak_flops(results, extra["threads"]),
            "times_previous": previous and previous / stats["median"],
            "times_first": first and first / stats["median"],
        })  # fmt: skip
        previous = stats["median"]
    found += [failed for failed in results["failed"] if failed["group"] == of]
    return sorted(found, key=lambda row: row["name"]) if of == "latency" else found


def latency_cells(row):
    return [
        milliseconds(row["median"]), milliseconds(row["min"]), spread(row), f"{1 / row['median']:.3g}",
        factor(row["times_previous"]), factor(row["times_first"]), f"{row['flops'] / 1e9:.3g}",
        f"{row['of_peak']:.1%}", f"{row['max_abs_error']:.0e}", number(row.get("arrays")), number(row.get("faults")),
        number(row.get("peak_memory"), 2**20), f"{row['startup_seconds']:.1f}",
    ]  # fmt: skip


def milliseconds(seconds):
    """Three digits, and no more decimals than that makes."""
    ms = seconds * 1e3
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"


def spread(row):
    """The inter-quartile range, where there is more than one measurement to have one."""
    return milliseconds(row["iqr"]) if row["timed"] > 1 else MISSING


def factor(value):
    return MISSING if value is None else f"{value:,.0f}×" if value >= 100 else f"{value:.3g}×"


def number(value, unit=1):
    return MISSING if value is None else f"{value / unit:,.0f}"


def race_table(results, name):
    """The contenders of one race, fastest first."""
    table = Table(title=f"{name} each, taking turns", title_justify="left")
    table.add_column("contender")
    for heading in ("threads", "median ms", "min", "IQR", "images/s", "GFLOP/s", "% of peak", "max error"):
        table.add_column(heading, justify="right")
    for row in sorted(rows(results, name), key=lambda row: row.get("median", float("inf"))):
        if row.get("reason"):
            table.add_row(row["name"], MISSING, f"[red]{row['reason']}[/red]")
            continue
        table.add_row(row["name"], str(row["threads"]), milliseconds(row["median"]), milliseconds(row["min"]),
                      spread(row), f"{1 / row['median']:.3g}", f"{row['flops'] / 1e9:.3g}", f"{row['of_peak']:.1%}",
                      f"{row['max_abs_error']:.0e}")  # fmt: skip
    return table


def ratio_table(results, name):
    """Each contender's time over each other's, rounds compared one by one: below 1 the row is faster."""
    contenders = group(results, name)
    table = Table(title="time of the row ÷ time of the column, median over rounds", title_justify="left")
    table.add_column("")
    for contender in contenders:
        table.add_column(contender["name"].split("_")[0], justify="right")
    for one in contenders:
        cells = []
        for other in contenders:
            value = ratio(one, other)
            cells.append(MISSING if one is other else f"[green]{value:.2f}[/green]" if value < 1 else f"{value:.2f}")
        table.add_row(one["name"], *cells)
    return table


def published():
    """The figures of the C++ project that inspired this one; see published.json."""
    return json.loads(PUBLISHED.read_text())
