"""Results as tables: on the terminal with rich, in the README as Markdown."""

import json
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from bench.network import layers
from bench.race import ratio
from bench.results import group, plural
from bench.versions import VERSIONS

PUBLISHED = Path(__file__).with_name("published.json")
MISSING = "–"
PRODUCTS = ("conv2d", "fully_connected", "layer")  # what a profile calls a layer's sum of products


def peak_flops(results, cores):
    """The measured ceiling, FLOP/s, of one core or of all in use."""
    peak = results["machine_info"]["peak"]
    return peak["flops_1"] if cores == 1 else peak["flops"]


def latency_table(results):
    """One row a version in step order, and the published figures of the project that inspired them."""
    table = Table(title=title(results), title_justify="left", caption=reasons(results, "latency"))
    table.add_column("version", no_wrap=True)
    for heading in ("median ms", "min", "IQR", "images/s", "× previous", "× v1", "GFLOP/s", "% of peak",
                    "max error", "arrays", "alloc MiB", "faults", "peak MiB", "start-up s"):
        table.add_column(heading, justify="right")
    for row in rows(results):
        table.add_row(row["name"], *(["[red]not timed[/red]"] if row.get("reason") else latency_cells(row)))
    if results["settings"].get("image_size") == 224:
        steps = [step["ms"] / 1e3 for step in published()["steps"].values()]
        table.add_section()
        table.add_row(published()["label"], milliseconds(steps[-1]), MISSING, MISSING, f"{1 / steps[-1]:.3g}", MISSING,
                      factor(steps[0] / steps[-1]), style="dim")
        table.caption += f"{published()['label']}: {published_note()}"
    return table


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


def latency_cells(row):
    return [
        milliseconds(row["median"]), milliseconds(row["min"]), spread(row), f"{1 / row['median']:.3g}",
        factor(row["times_previous"]), factor(row["times_first"]), f"{row['flops'] / 1e9:.3g}",
        f"{row['of_peak']:.1%}", f"{row['max_abs_error']:.0e}", number(row.get("arrays")),
        number(row.get("array_bytes"), 2**20), number(row.get("faults")), number(row.get("peak_memory"), 2**20),
        f"{row['startup_seconds']:.1f}",
    ]


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
    table = Table(title=f"{name} each, taking turns", title_justify="left", caption=reasons(results, name))
    table.add_column("contender", no_wrap=True)
    for heading in ("threads", "median ms", "min", "IQR", "images/s", "GFLOP/s", "% of peak", "max error"):
        table.add_column(heading, justify="right")
    for row in sorted(rows(results, name), key=lambda row: row.get("median", float("inf"))):
        if row.get("reason"):
            table.add_row(row["name"], MISSING, "[red]not timed[/red]")
            continue
        table.add_row(row["name"], str(row["threads"]), milliseconds(row["median"]), milliseconds(row["min"]),
                      spread(row), f"{1 / row['median']:.3g}", f"{row['flops'] / 1e9:.3g}", f"{row['of_peak']:.1%}",
                      f"{row['max_abs_error']:.0e}")
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
    table = Table(title=f"{version}, {plural(threads, 'thread')}: {milliseconds(total)} ms a picture",
                  title_justify="left")
    table.add_column("layer", no_wrap=True)
    for heading in ("input", "output", "kernel", "ms", "share", "GFLOP/s", "× floor", "floor set by", "rest, ms"):
        table.add_column(heading, justify="right")
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
    table = Table()
    table.add_column("operator")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for operator, seconds in sorted(sums.items(), key=lambda item: -item[1]):
        table.add_row(operator, milliseconds(seconds), f"{seconds / benchmark['stats']['median']:.1%}")
    return table


def throughput_table(results):
    """Pictures a second of every way to share the cores, and how long each picture takes in it."""
    caption = reasons(results, "throughput")
    table = Table(title="many pictures: processes × threads", title_justify="left", caption=caption)
    table.add_column("contender", no_wrap=True)
    for heading in ("images/s", "latency ms", "memory MiB", "max error"):
        table.add_column(heading, justify="right")
    for row in rows(results, "throughput"):
        if row.get("reason"):
            table.add_row(row["name"], "[red]not timed[/red]")
            continue
        table.add_row(row["name"], f"{1 / row['median']:.3g}", milliseconds(row["latency"]),
                      number(row["peak_memory"], 2**20), f"{row['max_abs_error']:.0e}")
    return table


def scaling_table(results, name, by):
    """A row a contender, a column a point. by: "image_size" or "threads"."""
    points = group(results, name)
    columns = sorted({point["extra_info"][by] for point in points})
    table = Table(title=f"{name}: one picture, ms", title_justify="left", caption=reasons(results, name))
    table.add_column("contender", no_wrap=True)
    for column in columns:
        table.add_column(str(column), justify="right")
    for version in dict.fromkeys(point["extra_info"]["version"] for point in points):
        own = {p["extra_info"][by]: p["stats"]["median"] for p in points if p["extra_info"]["version"] == version}
        table.add_row(version, *(milliseconds(own[c]) if c in own else MISSING for c in columns))
    return table
