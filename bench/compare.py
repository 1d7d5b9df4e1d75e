"""Two stored runs side by side, with what changed by more than the noise marked."""

from bench.report import MISSING, milliseconds, new_table

LEAST = 0.03  # a smaller change of the median is never marked, however quiet the machine was
ONCE = 0.10  # what a time that was taken once may be off by


def interval(stats):
    """Where a run's median may just as well have been: between its quartiles, or ONCE around a single time."""
    if stats["rounds"] == 1:
        return stats["median"] * (1 - ONCE), stats["median"] * (1 + ONCE)
    return stats["q1"], stats["q3"]


def change(before, after):
    """Return (relative change of the median, whether it is more than noise) of two benchmarks' stats."""
    relative = after["median"] / before["median"] - 1
    (low_before, high_before), (low_after, high_after) = interval(before), interval(after)
    apart = high_before < low_after or high_after < low_before
    return relative, apart and abs(relative) > LEAST


def comparison(before, after):
    """Return rows (group, name, stats before or None, stats after or None), in the order of the runs."""
    old, new = ({(b["group"], b["name"]): b["stats"] for b in run["benchmarks"]} for run in (before, after))
    return [(*key, old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new])]


def comparison_table(before, after, names):
    """names: of the two runs, as headings."""
    heading = "medians, ms; ▲ slower, ▼ faster by more than the noise"
    table = new_table("contender", ("experiment", *names, "change"), heading)
    for texts in table.columns[:2]:
        texts.no_wrap = False  # on a narrow terminal the numbers stay whole
    for group, name, old, new in comparison(before, after):
        medians = [milliseconds(stats["median"]) if stats else MISSING for stats in (old, new)]
        table.add_row(name, group, *medians, verdict(old, new))
    return table


def verdict(old, new):
    if not (old and new):
        return "only in one"
    relative, certain = change(old, new)
    if not certain:
        return f"[dim]{relative:+.1%}[/dim]"
    return f"[red]▲ {relative:+.1%}[/red]" if relative > 0 else f"[green]▼ {relative:+.1%}[/green]"


def machine_differences(before, after):
    """The lines of the environment that differ: times of two machines say nothing about a change in the code."""
    old, new = before["machine_info"], after["machine_info"]
    keys = [key for key in dict.fromkeys([*old, *new]) if key != "peak" and old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key)} → {new.get(key)}" for key in keys]
