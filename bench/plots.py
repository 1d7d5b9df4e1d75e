"""The pictures of a results file, as SVG in the style of all the repository's plots."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.counts import work
from bench.experiments import plural, race_group
from bench.ladder import RUNGS
from bench.profile import PRODUCTS
from bench.quantities import ceiling, floor, isa, ladder_rows, race_counts, ratio, step_rows
from bench.results import group
from bench.text import bytes_text, digits, milliseconds, times
from common import architecture
from common.plot_style import BLUE, FAINT, INK, PLAIN, RED, STYLE, VERSION_COLOURS, WIDTH, colour, save, shade
from common.versions import VERSIONS

# {picture: the experiment that it shows}
PICTURES = {"steps": "race", "race": "race", "roofline": "race", "roofline_numpy": "race", "layers": "profile"}
PICTURES |= {"scaling": "scaling"}
LADDER = {"ladder": "ladder", "caches": "caches"}


def draw_all(results: dict, directory: Path, pictures: dict[str, str] = PICTURES | LADDER) -> list[Path]:
    """Draw those of the pictures that the results file has the data for. Return the paths."""
    drawn = []
    measured = " ".join(benchmark["group"] for benchmark in results["benchmarks"])
    for name, needed in pictures.items():
        if needed in measured:
            with plt.rc_context(STYLE | {"figure.constrained_layout.use": True}):
                drawn.append(directory / f"{name}.svg")
                save(globals()[name](results), drawn[-1])
    return drawn


def label(axes: Axes, text: str, x: float, y: float, right: float, up: float = 0, **style: object) -> None:
    """Text beside a point, so many dots to the right and up; to the left if that is negative."""
    style = {"ha": "left" if right > 0 else "right", "va": "center", "bbox": PLAIN} | style
    axes.annotate(text, (x, y), (right, up), textcoords="offset points", **style)


def bars(axes: Axes, rows: list[dict], values: list[float], labels: list[str]) -> None:
    """A horizontal bar a row, the first on top, with a label at its end."""
    axes.barh([row["name"] for row in rows], values, color=[colour(row["version"]) for row in rows], height=0.65)
    for place, (value, text) in enumerate(zip(values, labels)):
        label(axes, text, value, place, 4)
    axes.invert_yaxis()
    axes.margins(x=0.2)


def steps(results: dict) -> Figure:
    """Bars on a log scale, with the time and the factor over the step before."""
    rows = list(step_rows(results).values())
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
    taken = [row["median"] * 1e3 for row in rows]
    factors = [f", {times(row['before'], row)}" if row["before"] else "" for row in rows]
    shown = [milliseconds(row).replace(" (", " ms (") + " ms" * (row["rounds"] > 1) for row in rows]
    bars(axes, rows, taken, [text + gain for text, gain in zip(shown, factors)])
    axes.set(xscale="log", xlim=(min(taken) / 4, max(taken) * 8))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("one picture, ms (log scale), and times as fast as the step before")
    axes.grid(axis="x")
    return figure


def race(results: dict) -> Figure:
    """Versions and engines, fastest first; a panel for each number of threads."""
    counts = race_counts(results)
    figure, panels = plt.subplots(1, len(counts), figsize=(WIDTH, 3.6), squeeze=False, sharex=True)
    for axes, count in zip(panels[0], counts):
        rows = [row for row in group(results, race_group(count)) if row["threads"] == count]
        # Beside the interpreter's version and the first of NumPy's all others would look alike.
        rows = sorted((row for row in rows if row["name"][:2] not in ("v1", "v2")), key=lambda row: row["median"])
        taken = [row["median"] * 1e3 for row in rows]
        bars(axes, rows, taken, [digits(ms) for ms in taken])
        axes.set_xlabel("one picture, ms")
        axes.set_title(plural(count, "thread"), loc="left")
    return figure


def roofline(results: dict) -> Figure:
    """GFLOP/s against FLOP a byte: every version where its own operations and bytes put it, under both roofs."""
    return under_roofs(results, step_rows(results))


def roofline_numpy(results: dict) -> Figure:
    """The same of the versions before article 16, which predicts the others."""
    rows = step_rows(results)
    return under_roofs(results, {name: rows[name] for name in VERSIONS[:4] if name in rows})


def under_roofs(results: dict, rows: dict[str, dict]) -> Figure:
    figure, axes = plt.subplots(figsize=(WIDTH, 5))
    x = np.geomspace(0.008, 400, 300)
    for count in sorted({1, results["machine_info"]["cores"]}):
        roof = np.minimum(ceiling(results, "flops", count), x * ceiling(results, "bandwidth", count)) / 1e9
        axes.plot(x, roof, color=FAINT, linestyle="-" if count == 1 else "--")
        label(axes, f"{plural(count, 'core')}: {digits(roof[-1])} GFLOP/s", x[-1], roof[-1], -1, 8, bbox=None)
    points = []
    for name, row in rows.items():
        done = work(name, row["image_size"], isa(results, name))
        points.append((done.flops / done.bytes, done.flops / row["median"] / 1e9, name))
    for intensity, rate, name in points:
        axes.plot(intensity, rate, "D", color=colour(name), markersize=8, markeredgecolor="white")
        short = name.split("_")[0]
        beside = {"v2": (-8, 0), "v3": (-2, 12), "v4": (2, -12), "v5": (8, -8), "v7": (-8, 0), "v9": (8, 12)}
        right, up = beside.get(short, (8, 0))
        label(axes, short, intensity, rate, right, up, bbox=None)
    axes.set(xscale="log", yscale="log", ylabel="GFLOP/s that it does", xlim=(x[0], x[-1]))
    axes.set_ylim(0.01, max([600, *(2 * rate for _, rate, _ in points)]))
    axes.set_xlabel("floating-point operations for each byte that its operations read or write")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
    axes.grid()
    return figure


def layers(results: dict) -> Figure:
    """Time per layer, a panel a version, over the floor that arithmetic and memory set."""
    profiles, described = group(results, "profile"), architecture.layers(results["settings"]["image_size"])
    height, places = 1 + 1.6 * len(profiles), np.arange(len(described))
    figure, panels = plt.subplots(len(profiles), 1, figsize=(WIDTH, height), sharex=True, squeeze=False)
    for axes, row in zip(panels[:, 0], profiles):
        parts = [row["parts"][layer.name] for layer in described]
        whole = [1e3 * sum(part.values()) for part in parts]
        products = [1e3 * sum(part.get(operator, 0) for operator in PRODUCTS) for part in parts]
        axes.bar(places, whole, color=colour(row["name"]), width=0.85, alpha=0.45)
        axes.bar(places, products, color=colour(row["name"]), width=0.85)
        floors = [1e3 * floor(layer, results, row)[0] for layer in described]
        axes.step(places, floors, where="mid", color=INK)
        axes.set_title(f"{row['name']}, {plural(row['threads'], 'thread')}", loc="left", fontsize=10)
        axes.set_ylabel("ms")
        axes.grid(axis="y")
        axes.margins(x=0.01)
    stages = [layer.name.split(".")[0] for layer in described]
    starts = [place for place in places[1:] if stages[place] != stages[place - 1]]
    axes.set_xticks(starts, [stages[place] for place in starts], ha="left")
    axes.set_xlabel("layers; pale: batch norm, ReLU, addition, transforms; line: the floor of a direct convolution")
    return figure


def scaling(results: dict) -> Figure:
    """The rate against image size, speed-up against threads, images a second of two ways to share the cores."""
    figure, (sizes, threads, throughput) = plt.subplots(1, 3, figsize=(1.5 * WIDTH, 4.4))
    for axes, by in ((sizes, "image_size"), (threads, "threads")):
        rows = group(results, f"scaling, {by.replace('_', ' ')}")
        for version in dict.fromkeys(row["version"] for row in rows):
            own = [row for row in rows if row["version"] == version]
            values = [row["gflops"] if axes is sizes else ratio(own[0], row) for row in own]
            axes.plot([row[by] for row in own], values, "o-", color=colour(version), label=version, markersize=4)
        axes.grid()
    counts = sorted({row["threads"] for row in rows})
    threads.plot(counts, counts, "--", color=FAINT, label="ideal")
    threads.set(xticks=counts, xlabel="threads", title="times as fast as one thread")
    sizes.set(xticks=(64, 128, 224, 320, 448), xlabel="height and width, pixels", title="effective GFLOP/s")
    sizes.set_ylim(0, 1.4 * sizes.get_ylim()[1])  # room for the names
    sizes.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    threads.legend(frameon=False, fontsize=9)
    teams = [
        row | {"name": row["name"].removesuffix("s").removesuffix(" thread")} for row in group(results, "throughput")
    ]
    rates = [1 / row["median"] for row in teams]
    bars(throughput, teams, rates, [digits(rate) for rate in rates])
    throughput.tick_params(axis="y", labelsize=8)
    throughput.set(title="images/s (processes × threads)")
    return figure


def ladder(results: dict) -> Figure:
    """The rate of every rung, of both layers, and the peak."""
    rows = {name: row for name, row in ladder_rows(results).items() if not RUNGS[name].beside}
    figure, axes = plt.subplots(figsize=(WIDTH, 5.2))
    peak = ceiling(results, "flops", 1) / 1e9
    axes.axvline(peak, color=INK, linestyle="--", linewidth=1)
    for shift, layer, strength in ((-0.2, "3x3", 1.0), (0.2, "1x1", 0.5)):
        for place, (name, measured) in enumerate(rows.items()):
            if row := measured.get(layer):
                shown = shade(VERSION_COLOURS.get(RUNGS[name].source, VERSION_COLOURS["v5_codegen"]), strength)
                axes.barh(place + shift, row["gflops"], 0.38, color=shown, label=layer if place == 0 else None)
                label(axes, digits(row["gflops"]), row["gflops"], place + shift, 4, size=8)
    label(axes, f"peak {digits(peak)}", peak, -0.75, 4, size=9)
    axes.set_yticks(range(len(rows)), [RUNGS[name].title for name in rows])
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.set_xlabel("GFLOP/s of one core; of versions 7 and 8 the effective rate")
    axes.legend(frameon=False, loc="center right")
    axes.grid(axis="x")
    return figure


def caches(results: dict) -> Figure:
    """The time of a load: against the bytes in use, lines in one set, pages; and of passes with a stride."""
    figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 6.2))
    ((sizes, sets), (pages, strides)) = panels
    lines = {
        sizes: [("size", "", BLUE)],
        sets: [("4096 bytes apart", "4096 bytes apart", RED), ("4160 bytes apart", "4160 bytes apart", BLUE)],
        pages: [("pages", "4 KiB", RED), ("pages of 2 MiB", "2 MiB", BLUE)],
        strides: [("stride", "", BLUE)],
    }
    for axes, experiments in lines.items():
        for experiment, name, shown in experiments:
            rows = sorted(group(results, f"caches, {experiment}"), key=lambda row: row["point"])
            unit = 1e-3 if axes is strides else 1e-9
            points, values = [row["point"] for row in rows], [row["min"] / unit for row in rows]
            axes.plot(points, values, "o-", color=shown, label=name, markersize=3)
        axes.set_xscale("log", base=2)
        axes.grid()
        axes.minorticks_off()
    for name, (size, _, _) in next((row["linux"] for row in group(results, "caches, size")), {}).items():
        sizes.axvline(size, color=RED, linestyle="--", linewidth=1)
        sizes.annotate(name, (size, 1), (2, -2), ("data", "axes fraction"),
                       textcoords="offset points", color=RED, size=9, va="top")  # fmt: skip
    sizes.set(yscale="log", xticks=[2**n for n in (12, 15, 18, 21, 24, 27)], ylabel="ns a load", xlabel="bytes in use")
    sizes.set_xticklabels([bytes_text(2**n) for n in (12, 15, 18, 21, 24, 27)], size=8)
    sizes.yaxis.set_major_formatter("{x:g}")
    sets.set(xlabel="lines", ylabel="ns a load", ylim=0)
    pages.set(yscale="log", xlabel="a line of each of so many pages", ylabel="ns a load")
    pages.yaxis.set_major_formatter("{x:g}")
    strides.set(xlabel="a byte of every so many", ylabel="ms for 128 MiB", ylim=0)
    for axes in (sets, pages, strides):
        axes.xaxis.set_major_formatter("{x:,g}")
    for axes in (sets, pages):
        axes.legend(frameon=False, fontsize=9)
    return figure
