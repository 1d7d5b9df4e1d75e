"""Results as tables: on the terminal with rich, in the README as Markdown."""

import json
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from bench.network import layers
from bench.race import ratio
from bench.results import group, plural
from common.versions import VERSIONS

PUBLISHED = Path(__file__).with_name("published.json")
MISSING = "–"
PRODUCTS = ("conv2d", "fully_connected", "layer")  # what a profile calls a layer's sum of products


def peak_flops(results, cores):
    """The measured ceiling, FLOP/s, of one core or of all in use."""
    peak = results["machine_info"]["peak"]
    return peak["flops_1"] if cores == 1 else peak["flops"]


# Headings of the latency table and what is under them.
SPEED = {
    "median ms": lambda row: milliseconds(row["median"]),
    "images/s": lambda row: f"{1 / row['median']:.3g}",
    "× previous": lambda row: coloured(row["times_previous"]),
    "× v1": lambda row: factor(row["times_first"]),
    "GFLOP/s": lambda row: f"{row['flops'] / 1e9:.3g}",
    "% of peak": lambda row: percent(row["of_peak"]),
}
OTHER = {
    "min ms": lambda row: milliseconds(row["min"]),
    "IQR": lambda row: milliseconds(row["iqr"]) if row["timed"] > 1 else MISSING,
    "max error": lambda row: f"{row['max_abs_error']:.0e}",
    "arrays": lambda row: number(row.get("arrays")),
    "alloc MiB": lambda row: number(row.get("array_bytes"), 2**20),
    "faults": lambda row: number(row.get("faults")),
    "peak MiB": lambda row: number(row.get("peak_memory"), 2**20),
    "start-up s": lambda row: f"{row['startup_seconds']:.1f}",
}
RACE = ("threads", "median ms", "min ms", "IQR", "images/s", "GFLOP/s", "% of peak", "max error")
WIDE = 136  # characters, from which all columns fit beside each other


def latency_table(results, width=WIDE):
    """One row a version in step order; in two parts, one under the other, on a terminal that is not WIDE."""
    parts = [SPEED | OTHER] if width >= WIDE else [SPEED, OTHER]
    tables = [latency_part(results, columns) for columns in parts]
    tables[0].title = title(results)
    notes = reasons(results, "latency")
    if results["settings"].get("image_size") == 224:
        notes += f"[dim]{published()['label']}: {published_note()}[/dim]"
    return Group(*tables, notes)


def latency_part(results, columns):
    """The latency table with some of its columns."""
    table = new_table("version", columns)
    for row in rows(results):
        add_row(table, row, columns)
    if results["settings"].get("image_size") == 224:
        steps = [step["ms"] / 1e3 for step in published()["steps"].values()]
        row = {"median": steps[-1], "times_first": steps[0] / steps[-1]}
        known = ("median ms", "images/s", "× v1")
        table.add_section()
        table.add_row(published()["label"], *(columns[h](row) if h in known else MISSING for h in columns), style="dim")
    return table


def new_table(first, headings, heading=None, caption=None):
    """An empty table: a column of names, then columns of numbers."""
    table = Table(box=SIMPLE_HEAD, title=heading, title_justify="left", title_style="bold", caption=caption,
                  caption_justify="left", padding=(0, 1, 0, 0), min_width=min(len(heading or ""), 78))
    table.add_column(first, no_wrap=True, style="bold cyan")
    for name in headings:
        table.add_column("\n".join(name.rsplit(" ", 1)), justify="right", no_wrap=True)
    return table


def add_row(table, row, columns):
    """columns: {heading: function of the row that gives the cell}."""
    reason = row.get("reason")
    table.add_row(row["name"], *(["[red]not timed[/red]"] if reason else [cell(row) for cell in columns.values()]))


def reasons(results, of):
    """Why contenders were not timed, a line each."""
    return "".join(f"[red]{f['name']}: {escape(f['reason'])}[/red]\n" for f in results["failed"] if f["group"] == of)


def published_note():
    figures = ", ".join(f"{step['ms']:,}" for step in published()["steps"].values())
    return f"{figures} ms for its six steps; {published()['note']}"


def title(results):
    settings = results["settings"]
    size = settings.get("image_size", "?")
    return f"ResNet-50, one {size}×{size} picture, float32 (weights: {settings.get('weights', '?')})"


def rows(results, of="latency"):
    """One dict a contender: the numbers of its row, or the reason why it has none; versions in step order."""
    timed = {benchmark["name"]: benchmark for benchmark in group(results, of)}
    medians = {name: benchmark["stats"]["median"] for name, benchmark in timed.items()}
    found = [failed for failed in results["failed"] if failed["group"] == of]
    for name, benchmark in timed.items():
        stats, extra = benchmark["stats"], benchmark["extra_info"]
        flops, first, previous = extra["flops"] / stats["median"], medians.get(VERSIONS[0]), None
        if name in VERSIONS[1:]:
            previous = medians.get(VERSIONS[VERSIONS.index(name) - 1])
        found.append(extra | {
            "name": name, "median": stats["median"], "min": stats["min"], "iqr": stats["iqr"],
            "timed": stats["rounds"], "flops": flops, "of_peak": flops / peak_flops(results, extra["threads"]),
            "times_previous": previous and previous / stats["median"],
            "times_first": first and first / stats["median"],
        })
    return sorted(found, key=lambda row: row["name"]) if of == "latency" else found


def milliseconds(seconds):
    """Three digits, and no more decimals than that makes."""
    ms = seconds * 1e3
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"


def percent(share):
    """One decimal, or one digit of what is less than that shows."""
    return f"{share:.1%}" if share >= 0.001 else f"{100 * share:.1g}%"


def factor(value):
    return MISSING if value is None else f"{value:,.0f}×" if value >= 100 else f"{value:.3g}×"


def coloured(value):
    """A factor, green where a step gained, red where it lost."""
    return factor(value) if value is None else f"[{'green' if value > 1 else 'red'}]{factor(value)}[/]"


def number(value, unit=1):
    return MISSING if value is None else f"{value / unit:,.0f}"


def race_table(results, name):
    """The contenders of one race, fastest first."""
    columns = {"threads": lambda row: str(row["threads"])} | SPEED | OTHER
    columns = {heading: columns[heading] for heading in RACE}
    table = new_table("contender", columns, f"{name} each, taking turns", reasons(results, name))
    for row in sorted(rows(results, name), key=lambda row: row.get("median", float("inf"))):
        add_row(table, row, columns)
    return table


def ratio_table(results, name):
    """Each contender's time over each other's, rounds compared one by one: below 1 the row is faster."""
    contenders = group(results, name)
    names = [contender["name"].removeprefix("torch-").removesuffix("runtime") for contender in contenders]
    names = [name.split("_")[0] if name in VERSIONS else name for name in names]
    table = new_table("", names, "time of the row ÷ time of the column, median over rounds")
    for one in contenders:
        cells = []
        for other in contenders:
            value = ratio(one, other)
            cells.append(MISSING if one is other else f"[green]{value:.2f}[/green]" if value < 1 else f"{value:.2f}")
        table.add_row(one["name"], *cells)
    return table


def machine_line(results):
    """The environment in a sentence."""
    info = results["machine_info"]
    peak, cores = info["peak"], info["cores"]
    ceiling = f"{peak['flops_1'] / 1e9:.0f}" + (f", {cores} cores {peak['flops'] / 1e9:.0f}" if cores > 1 else "")
    return (f"{info['cpu']}, {cores} of {info['cores_in_machine']} cores in use; peak GFLOP/s measured: one core "
            f"{ceiling} ({peak['method']}); Python {info['python']}, NumPy {info['numpy']} with {info['blas']}; "
            f"{info['compiler'] or 'no C compiler'}; {info['os']}")


def published():
    """The figures of the C++ project that inspired this one; see published.json."""
    return json.loads(PUBLISHED.read_text())


def by_layer(parts):
    """Gather a profile's parts: [{"layer", "seconds", "operators": {operator: seconds}}, ...] in order."""
    found = {}
    for part in parts:
        layer = found.setdefault(part["layer"], {"layer": part["layer"], "seconds": 0.0, "operators": {}})
        layer["seconds"] += part["seconds"]
        layer["operators"][part["operator"]] = layer["operators"].get(part["operator"], 0.0) + part["seconds"]
    return list(found.values())


def floor(layer, peak, threads):
    """The least seconds that a direct convolution can take, and what sets it: arithmetic or memory."""
    suffix = "_1" if threads == 1 else ""
    arithmetic, memory = layer.flops / peak[f"flops{suffix}"], layer.bytes / peak[f"bandwidth{suffix}"]
    return (arithmetic, "arithmetic") if arithmetic >= memory else (memory, "memory")


def profile_table(results, version):
    """Every layer's time, rate, share of the picture's time, and distance from its floor."""
    benchmark = next(b for b in group(results, "profile") if b["name"] == version)
    total, threads = benchmark["stats"]["median"], benchmark["extra_info"]["threads"]
    headings = ("input", "output", "kernel", "ms", "share", "GFLOP/s", "× floor", "floor set by", "rest, ms")
    heading = f"{version}, {plural(threads, 'thread')}: {milliseconds(total)} ms a picture"
    table = new_table("layer", headings, heading)
    shapes = {layer.name: layer for layer in layers(results["settings"]["image_size"])}
    parts = by_layer(benchmark["extra_info"]["parts"])
    for part in parts:
        table.add_row(part["layer"], *profile_cells(part, shapes.get(part["layer"]), total, results, threads))
    rest = total - sum(part["seconds"] for part in parts)
    table.add_row("between layers", "", "", "", milliseconds(rest), f"{rest / total:.1%}")
    return table


def profile_cells(part, layer, total, results, threads):
    """`rest`: what is a pass of its own beside the product: batch norm, ReLU, addition, subsampling."""
    seconds, share = part["seconds"], f"{part['seconds'] / total:.1%}"
    if layer is None:
        return ["", "", "", milliseconds(seconds), share]
    least, limit = floor(layer, results["machine_info"]["peak"], threads)
    rest = seconds - sum(part["operators"].get(name, 0.0) for name in PRODUCTS)
    shape = ["×".join(map(str, shape)) for shape in (layer.in_shape, layer.out_shape)]
    kernel = f"{layer.kernel}×{layer.kernel}" + (f" /{layer.stride}" if layer.stride > 1 else "")
    return [*shape, kernel, milliseconds(seconds), share, f"{layer.flops / seconds / 1e9:.3g}",
            f"{seconds / least:.2f}", limit, milliseconds(rest) if rest > 1e-9 else MISSING]


def operator_table(results, version):
    """The same time by operator."""
    benchmark = next(b for b in group(results, "profile") if b["name"] == version)
    sums = {}
    for part in benchmark["extra_info"]["parts"]:
        sums[part["operator"]] = sums.get(part["operator"], 0.0) + part["seconds"]
    table = new_table("operator", ("ms", "share"))
    for operator, seconds in sorted(sums.items(), key=lambda item: -item[1]):
        table.add_row(operator, milliseconds(seconds), f"{seconds / benchmark['stats']['median']:.1%}")
    return table


def throughput_table(results):
    """Pictures a second of every way to share the cores, and how long each picture takes in it."""
    columns = {
        "images/s": SPEED["images/s"],
        "latency ms": lambda row: milliseconds(row["latency"]),
        "memory MiB": OTHER["peak MiB"],
        "max error": OTHER["max error"],
    }
    heading = "many pictures: processes × threads"
    table = new_table("contender", columns, heading, reasons(results, "throughput"))
    for row in rows(results, "throughput"):
        add_row(table, row, columns)
    return table


def scaling_table(results, name, by):
    """A row a contender, a column a point. by: "image_size" or "threads"."""
    points = group(results, name)
    columns = sorted({point["extra_info"][by] for point in points})
    table = new_table("contender", map(str, columns), f"{name}: one picture, ms", reasons(results, name))
    for version in dict.fromkeys(point["extra_info"]["version"] for point in points):
        own = {p["extra_info"][by]: p["stats"]["median"] for p in points if p["extra_info"]["version"] == version}
        table.add_row(version, *(milliseconds(own[c]) if c in own else MISSING for c in columns))
    return table
