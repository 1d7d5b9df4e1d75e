"""The pictures of a results file, as SVG on a background of their own: right in light and in dark surroundings."""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

from bench import network, report
from bench.results import group, plural
from bench.scaling import SIZE_GROUP, THREAD_GROUP

# Okabe and Ito's palette, told apart by all kinds of colour vision.
COLOURS = {"v1_loops": "#999999", "v2_vectorized": "#E69F00", "v3_preload": "#56B4E9", "v4_no_alloc": "#009E73",
           "v5_codegen": "#0072B2", "v6_threads": "#D55E00", "v5_direct": "#0072B2", "v6_direct": "#D55E00"}
ENGINE, INK, FAINT = "#CC79A7", "#222222", "#777777"
STYLE = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white",
         "axes.facecolor": "white", "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT,
         "xtick.color": INK, "ytick.color": INK, "svg.hashsalt": "resnet50", "axes.axisbelow": True,
         "grid.color": "#DDDDDD"}
PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # behind text that a line may cross


def draw_all(results, directory):
    """Draw whatever the results file has the data for. Return the paths."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, draw in PICTURES.items():
        with plt.rc_context(STYLE):
            figure = draw(results)
            if figure is not None:
                drawn.append(directory / f"{name}.svg")
                figure.savefig(drawn[-1], bbox_inches="tight", metadata={"Date": None})
                plt.close(figure)
    return drawn


def colour(name):
    return COLOURS.get(name, ENGINE)


def steps(results):
    """Bars on a log scale, the factor over the step before written on each; the published figures beside them."""
    timed = [row for row in report.rows(results) if "median" in row]
    if not timed:
        return None
    published = report.published()
    figure, axes = plt.subplots(figsize=(9, 4))
    most = 1e3 * max(row["median"] for row in timed)
    for place, row in enumerate(timed):
        ms = row["median"] * 1e3
        axes.barh(place, ms, color=colour(row["name"]), height=0.62)
        if row["times_previous"]:
            axes.text(ms * 1.1, place, report.factor(row["times_previous"]), va="center", weight="bold", bbox=PLAIN)
        axes.text(most * 2.2, place, duration(row), va="center")
        if row["name"] in published["steps"] and results["settings"]["image_size"] == 224:
            cpp = published["steps"][row["name"]]["ms"]
            axes.plot([cpp, cpp], [place - 0.42, place + 0.42], color=INK, linewidth=1.6,
                      label=f"{published['label']} (another machine)" if place == 0 else None)
    axes.set_yticks(range(len(timed)), [row["name"] for row in timed])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(min(row["median"] for row in timed) * 1e3 / 4, most * 2)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel("one picture, ms (log scale); on each bar: times as fast as the step before")
    axes.set_title(f"ResNet-50 in six steps, one {size_of(results)} picture, float32", loc="left")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", framealpha=1, edgecolor="white")
    axes.grid(axis="x")
    return figure


def duration(row):
    seconds = row["median"]
    text = f"{seconds:,.0f} s" if seconds >= 10 else f"{report.milliseconds(seconds)} ms"
    return text + (f", {plural(row['threads'], 'thread')}" if row["threads"] > 1 else "")


def size_of(results):
    return "{0}×{0}".format(results["settings"]["image_size"])


def roofline(results):
    """GFLOP/s against FLOPs per byte of weights: each version a point, v5's layers small ones, under both roofs."""
    timed = [row for row in report.rows(results) if "median" in row]
    if not timed:
        return None
    size = results["settings"]["image_size"]
    figure, axes = plt.subplots(figsize=(9, 5))
    x = np.geomspace(0.3, 1e5, 300)
    peak, cores = results["machine_info"]["peak"], results["machine_info"]["cores"]
    for count, suffix, style in ((1, "_1", "-"), (cores, "", "--"))[: 1 if cores == 1 else 2]:
        roof = np.minimum(peak[f"flops{suffix}"], x * peak[f"bandwidth{suffix}"])
        axes.plot(x, roof / 1e9, style, color=FAINT)
        name = f"{count} core{'s' if count > 1 else ''}: {peak[f'flops{suffix}'] / 1e9:.0f} GFLOP/s"
        axes.text(9e4, roof[-1] / 1e9 * (0.82 if count == 1 else 1.06), name, ha="right", color=INK,
                  va="top" if count == 1 else "bottom")
    by_name = {layer.name: layer for layer in network.layers(size)}
    for part in layer_seconds(results, "v5_codegen"):
        if part["layer"] in by_name:
            layer = by_name[part["layer"]]
            axes.plot(layer.flops / layer.bytes, layer.flops / part["seconds"] / 1e9, "o", markersize=4, alpha=0.5,
                      color=COLOURS["v5_codegen"])
    intensity = network.flops(size) / sum(layer.bytes for layer in by_name.values())
    for place, row in enumerate(timed):
        point, side = (intensity, row["flops"] / 1e9), 1 if place % 2 else -1  # neighbours' names on either side
        axes.plot(*point, "D", color=colour(row["name"]), markersize=9, markeredgecolor="white")
        axes.annotate(row["name"], point, (10 * side, -4), textcoords="offset points",
                      ha="left" if side > 0 else "right", bbox=PLAIN)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
    axes.set_xlabel("floating-point operations per byte of weights")
    axes.set_ylabel("GFLOP/s")
    small = "; dots: v5_codegen's layers, Winograd's above the roof" if layer_seconds(results, "v5_codegen") else ""
    axes.set_title(f"Roofline, {size_of(results)}{small}", loc="left")
    axes.grid(which="major")
    return figure


def layer_seconds(results, version):
    """The profile of a version: [{"layer", "seconds", "operators"}, ...] in network order; [] if there is none."""
    found = group(results, "profile")
    return next((report.by_layer(b["extra_info"]["parts"]) for b in found if b["name"] == version), [])


def layers(results):
    """Time per layer, a panel a version, over the floor that arithmetic and memory set."""
    profiled = group(results, "profile")
    if not profiled:
        return None
    size, peak = results["settings"]["image_size"], results["machine_info"]["peak"]
    figure, panels = plt.subplots(len(profiled), 1, figsize=(9, 1.2 + 1.75 * len(profiled)), sharex=True, squeeze=False)
    for axes, benchmark in zip(panels[:, 0], profiled):
        version, threads = benchmark["name"], benchmark["extra_info"]["threads"]
        parts = {part["layer"]: part for part in layer_seconds(results, version)}
        found = network.layers(size)
        floors = [report.floor(layer, peak, threads)[0] * 1e3 for layer in found]
        bottoms = np.zeros(len(found))
        for name, shade in (("conv2d", 1.0), ("other", 0.45)):
            heights = np.array([operator_ms(parts.get(layer.name), name) for layer in found])
            axes.bar(range(len(found)), heights, bottom=bottoms, color=colour(version), alpha=shade, width=0.85)
            bottoms += heights
        axes.step(np.arange(len(found)), floors, where="mid", color=INK, linewidth=1.2)
        total = report.milliseconds(benchmark["stats"]["median"])
        axes.set_title(f"{version}, {plural(threads, 'thread')}: {total} ms", loc="left", fontsize=11)
        axes.set_ylabel("ms")
        axes.grid(axis="y")
        axes.margins(x=0.01)
    names = [layer.name.split(".")[0] for layer in found]
    starts = [i for i in range(1, len(names)) if names[i] != names[i - 1]]  # the first is conv1, beside layer1
    panels[-1, 0].set_xticks(starts, [names[i] for i in starts], ha="left")
    figure.suptitle("Where the time goes, layer by layer; pale: batch norm, ReLU, addition, transforms; line: floor",
                    x=0.07, ha="left", fontsize=12)
    figure.tight_layout()
    return figure


def operator_ms(part, which):
    """Milliseconds of a layer's own product (convolution or fully connected), or of everything after it."""
    if part is None:
        return 0.0
    main = sum(part["operators"].get(name, 0.0) for name in report.PRODUCTS)
    return 1e3 * (main if which == "conv2d" else part["seconds"] - main)


def scaling(results):
    """Three panels: time against image size, speed-up against threads, images a second of two ways to share cores."""
    sizes, threads, throughput = (group(results, name) for name in (SIZE_GROUP, THREAD_GROUP, "throughput"))
    drawn = [(draw, data) for draw, data in
             ((draw_sizes, sizes), (draw_threads, threads), (draw_throughput, throughput)) if data]
    if not drawn:
        return None
    figure, panels = plt.subplots(1, len(drawn), figsize=(4.2 * len(drawn), 4.6), squeeze=False)
    for axes, (draw, data) in zip(panels[0], drawn):
        draw(axes, data)
    figure.tight_layout()
    return figure


def draw_sizes(axes, points):
    for version in dict.fromkeys(point["extra_info"]["version"] for point in points):
        own = [point for point in points if point["extra_info"]["version"] == version]
        x = [point["extra_info"]["image_size"] for point in own]
        axes.plot(x, [point["stats"]["median"] * 1e3 for point in own], "o-", color=colour(version), label=version,
                  markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([64, 128, 224, 448], ["64", "128", "224", "448"])
    axes.minorticks_off()
    axes.set_xlabel("height and width, pixels")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_title("one picture, ms", loc="left")
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    axes.grid()


def draw_threads(axes, points):
    most = max(point["extra_info"]["threads"] for point in points)
    axes.plot([1, most], [1, most], "--", color=FAINT, label="ideal")
    for version in dict.fromkeys(point["extra_info"]["version"] for point in points):
        own = [point for point in points if point["extra_info"]["version"] == version]
        x = [point["extra_info"]["threads"] for point in own]
        y = [own[0]["stats"]["median"] / point["stats"]["median"] for point in own]
        axes.plot(x, y, "o-", color=colour(version), label=version)
    axes.set_xticks(sorted({point["extra_info"]["threads"] for point in points}))
    axes.set_xlabel("threads")
    axes.set_title("times as fast as one thread", loc="left")
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    axes.grid()


def draw_throughput(axes, teams):
    for place, team in enumerate(teams):
        rate = 1 / team["stats"]["median"]
        axes.barh(place, rate, color=colour(team["extra_info"]["version"]), height=0.6)
        axes.text(rate, place, f" {rate:.3g}", va="center")
    names = [team["name"].replace(", ", "\n") for team in teams]
    axes.set_yticks(range(len(teams)), names, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_title("images/s (processes × threads)", loc="left")


def race(results):
    """Versions and engines, fastest first; one panel a number of threads."""
    names = sorted({b["group"] for b in results["benchmarks"] if b["group"].startswith("race, ")})
    if not names:
        return None
    figure, panels = plt.subplots(1, len(names), figsize=(4.6 * len(names), 3.8), squeeze=False, sharex=True)
    most = max(len(group(results, name)) for name in names)
    for axes, name in zip(panels[0], names):
        rows = sorted((row for row in report.rows(results, name) if "median" in row), key=lambda row: row["median"])
        threads = int(name.split()[1])
        rows = [row for row in rows if row["threads"] == threads]
        for place, row in enumerate(rows):
            ms = row["median"] * 1e3
            axes.barh(place, ms, color=colour(row["name"]), height=0.62)
            axes.text(ms, place, f" {ms:.3g}", va="center")
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
        axes.set_ylim(most - 0.5, -0.6)
        axes.margins(x=0.15)
        axes.set_xlabel("one picture, ms")
        axes.set_title(name.removeprefix("race, "), loc="left")
    figure.tight_layout()
    return figure


PICTURES = {"steps": steps, "roofline": roofline, "layers": layers, "scaling": scaling, "race": race}
