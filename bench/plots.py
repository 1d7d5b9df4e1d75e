"""The pictures of a results file, as SVG in the style of all the repository's plots."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.experiments import plural, race_group
from bench.profile import PRODUCTS
from bench.results import group
from bench.tables import ceiling, digits, factor, floor, ratio
from bench.tables import race_counts as counts
from bench.tables import steps as step_rows
from common.architecture import flops
from common.architecture import layers as network
from common.plot_style import ENGINE, FAINT, INK, PLAIN, STYLE, VERSION_COLOURS, WIDTH, save


def draw_all(results: dict, directory: Path) -> list[Path]:
    """Draw whatever the results file has the data for. Return the paths."""
    drawn = []
    for draw in (steps, race, roofline, layers, scaling):
        with plt.rc_context(STYLE | {"figure.constrained_layout.use": True}):
            if figure := draw(results):
                drawn.append(directory / f"{draw.__name__}.svg")
                save(figure, drawn[-1])
    return drawn


def colour(version: str) -> str:
    return VERSION_COLOURS.get(version, ENGINE)


def label(axes: Axes, text: str, x: float, y: float, right: float, up: float = 0, **style: object) -> None:
    """Text beside a point, so many dots to the right and up; to the left if that is negative."""
    style = {"ha": "left" if right > 0 else "right", "va": "center", "bbox": PLAIN} | style
    axes.annotate(text, (x, y), (right, up), textcoords="offset points", **style)


def bars(axes: Axes, names: list[str], values: list[float], versions: list[str], labels: list[str]) -> None:
    """Horizontal bars, the first on top, with a label at the end of each."""
    axes.barh(names, values, color=[colour(version) for version in versions], height=0.65)
    for place, (value, text) in enumerate(zip(values, labels)):
        label(axes, text, value, place, 4)
    axes.invert_yaxis()
    axes.margins(x=0.2)


def steps(results: dict) -> Figure | None:
    """Bars on a log scale, with the time and the factor over the step before."""
    rows = step_rows(results)
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
    times = [row["stats"]["median"] * 1e3 for row in rows.values()]
    factors = [f", {factor(row['previous'])}" if row["previous"] else "" for row in rows.values()]
    bars(axes, list(rows), times, list(rows), [f"{digits(ms)} ms{gain}" for ms, gain in zip(times, factors)])
    axes.set(xscale="log", xlim=(min(times) / 4, max(times) * 20))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel("one picture, ms (log scale), and times as fast as the step before")
    axes.grid(axis="x")
    return figure


def race(results: dict) -> Figure | None:
    """Versions and engines, fastest first; a panel for each number of threads."""
    races = {count: group(results, race_group(count)) for count in counts(results)}
    if not races:
        return None
    figure, panels = plt.subplots(1, len(races), figsize=(WIDTH, 3.6), squeeze=False, sharex=True)
    for axes, (count, raced) in zip(panels[0], races.items()):
        # The interpreter's version and the first of NumPy's would make all others look alike.
        shown = [b for b in raced if b["extra_info"]["threads"] == count and b["name"][:2] not in ("v1", "v2")]
        shown.sort(key=lambda b: b["stats"]["median"])
        names, times = [b["name"] for b in shown], [b["stats"]["median"] * 1e3 for b in shown]
        bars(axes, names, times, names, [digits(ms) for ms in times])
        axes.set_xlabel("one picture, ms")
        axes.set_title(plural(count, "thread"), loc="left")
    return figure


def roofline(results: dict) -> Figure | None:
    """GFLOP/s against FLOPs per byte of weights: each version a point, v5's layers small ones, under both roofs."""
    rows, size = step_rows(results), results["settings"]["image_size"]
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(WIDTH, 4.6))
    x = np.geomspace(0.3, 1e5, 300)
    for count in sorted({1, results["machine_info"]["cores"]}):
        roof = np.minimum(ceiling(results, "flops", count), x * ceiling(results, "bandwidth", count)) / 1e9
        axes.plot(x, roof, color=FAINT, linestyle="-" if count == 1 else "--")
        label(axes, f"{plural(count, 'core')}: {digits(roof[-1])}", x[-1], roof[-1], -1, 8, bbox=None)
    described = {layer.name: layer for layer in network(size)}
    for name, seconds in layer_seconds(results, "v5_codegen").items():
        if layer := described.get(name):
            axes.plot(
                layer.flops / layer.bytes, layer.flops / seconds / 1e9, ".", color=colour("v5_codegen"), alpha=0.5
            )
    intensity = flops(size) / sum(layer.bytes for layer in described.values())
    for place, (name, row) in enumerate(rows.items()):
        axes.plot(intensity, row["gflops"], "D", color=colour(name), markersize=8, markeredgecolor="white")
        label(axes, name, intensity, row["gflops"], 9 if place % 2 else -9)  # neighbours' names on either side
    axes.set(xscale="log", yscale="log", ylabel="effective GFLOP/s")
    axes.set_xlabel("floating-point operations per byte of weights; dots: the layers of v5_codegen")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
    axes.grid()
    return figure


def layer_seconds(results: dict, version: str, operators: Callable[[str], bool] = lambda _: True) -> dict[str, float]:
    """{layer: seconds} of those operators in a version's profile; empty if there is none."""
    parts = next((b["extra_info"]["parts"] for b in group(results, "profile") if b["name"] == version), {})
    return {
        layer: sum(seconds for operator, seconds in part.items() if operators(operator))
        for layer, part in parts.items()
    }


def layers(results: dict) -> Figure | None:
    """Time per layer, a panel a version, over the floor that arithmetic and memory set."""
    profiled = group(results, "profile")
    if not profiled:
        return None
    described = network(results["settings"]["image_size"])
    figure, panels = plt.subplots(
        len(profiled), 1, figsize=(WIDTH, 1 + 1.6 * len(profiled)), sharex=True, squeeze=False
    )
    for axes, benchmark in zip(panels[:, 0], profiled):
        version, count = benchmark["name"], benchmark["extra_info"]["threads"]
        products = layer_seconds(results, version, PRODUCTS.__contains__)
        rest = layer_seconds(results, version, lambda operator: operator not in PRODUCTS)
        heights = np.array([[part.get(layer.name, 0) * 1e3 for layer in described] for part in (products, rest)])
        places = np.arange(len(described))
        axes.bar(places, heights[0], color=colour(version), width=0.85)
        axes.bar(places, heights[1], bottom=heights[0], color=colour(version), width=0.85, alpha=0.45)
        axes.step(places, [floor(layer, results, count)[0] * 1e3 for layer in described], where="mid", color=INK)
        axes.set_title(f"{version}, {plural(count, 'thread')}", loc="left", fontsize=10)
        axes.set_ylabel("ms")
        axes.grid(axis="y")
        axes.margins(x=0.01)
    stages = [layer.name.split(".")[0] for layer in described]
    starts = [place for place in range(1, len(stages)) if stages[place] != stages[place - 1]]
    axes.set_xticks(starts, [stages[place] for place in starts], ha="left")
    axes.set_xlabel("layers; pale: batch norm, ReLU, addition, transforms; line: the floor of a direct convolution")
    return figure


def scaling(results: dict) -> Figure | None:
    """Time against image size, speed-up against threads, images a second of two ways to share the cores."""
    found = {name: group(results, name) for name in ("scaling, image size", "scaling, threads", "throughput")}
    if not all(found.values()):
        return None
    figure, (sizes, threads, throughput) = plt.subplots(1, 3, figsize=(1.5 * WIDTH, 4.4))
    for axes, points, by in zip((sizes, threads), found.values(), ("image_size", "threads")):
        for version in dict.fromkeys(b["extra_info"]["version"] for b in points):
            own = sorted(
                (b for b in points if b["extra_info"]["version"] == version), key=lambda b: b["extra_info"][by]
            )
            x = [b["extra_info"][by] for b in own]
            y = [b["stats"]["median"] * 1e3 if by == "image_size" else ratio(own[0], b) for b in own]
            axes.plot(x, y, "o-", color=colour(version), label=version, markersize=4)
        axes.grid()
        axes.set_xticks([64, 128, 224, 448] if by == "image_size" else x)
    sizes.set(yscale="log", xlabel="height and width, pixels", title="one picture, ms")
    sizes.yaxis.set_major_formatter("{x:,g}")
    sizes.legend(frameon=False, fontsize=9)
    threads.plot(x, x, "--", color=FAINT, label="ideal")
    threads.set(xlabel="threads", title="times as fast as one thread")
    threads.legend(frameon=False, fontsize=9)
    teams = found["throughput"]
    rates = [1 / b["stats"]["median"] for b in teams]
    versions = [b["extra_info"]["version"] for b in teams]
    bars(throughput, [b["name"].replace(", ", "\n") for b in teams], rates, versions, [digits(rate) for rate in rates])
    throughput.tick_params(axis="y", labelsize=7)
    throughput.set(title="images/s (processes × threads)")
    return figure
