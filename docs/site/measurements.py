"""The page of results: the README's tables and its plots, with values to hover over, for each machine measured."""

import json
import re
from collections.abc import Iterator

import numpy as np
from markdown_it import MarkdownIt
from sphinx.application import Sphinx

from bench import quantities, tables
from bench.experiments import plural, race_group
from bench.machine import generation
from bench.results import group, of_all_machines
from bench.text import Table, milliseconds
from common import architecture
from common.plot_style import FAINT, colour

MARKDOWN = MarkdownIt("gfm-like", {"linkify": False})
TABLES = {"The steps": tables.all_steps, "Versions and engines": tables.race, "Ceilings": tables.ceilings}


def bars(rows: list[dict], x_title: str, **axis: object) -> dict:
    """A horizontal bar a contender, with what is known of its time."""
    names = [row["name"] for row in rows]
    hover = [f"{milliseconds(row)} ms, {row['rounds']} rounds" for row in rows]
    bar = {"type": "bar", "orientation": "h", "y": names, "x": [1e3 * row["median"] for row in rows]}
    bar |= {"marker": {"color": [colour(name) for name in names]}, "hovertext": hover, "hoverinfo": "y+text"}
    bar |= {"error_x": {"type": "data", "array": [row["iqr"] / 2e-3 for row in rows], "color": FAINT}}
    layout = {"xaxis": {"title": {"text": x_title}} | axis, "yaxis": {"autorange": "reversed", "automargin": True}}
    return {"data": [bar], "layout": layout | {"height": 90 + 26 * len(rows)}}


def layers(results: dict, row: dict) -> dict:
    """Every layer's time in one version, over the floor that arithmetic and memory set."""
    described = architecture.layers(results["settings"]["image_size"])
    names, x = [layer.name for layer in described], list(range(len(described)))
    times = [1e3 * sum(row["parts"][name].values()) for name in names]
    floors = [quantities.floor(layer, results, row) for layer in described]
    shapes = ["×".join(map(str, layer.in_shape)) + f", {layer.kernel}×{layer.kernel}" for layer in described]
    hover = [
        f"{name}: {shape}<br>{ms:.3f} ms, {1e-3 * ms / least:.2f} × its floor, which {limit} sets"
        for name, shape, ms, (least, limit) in zip(names, shapes, times, floors)
    ]
    bar = {"type": "bar", "x": x, "y": times, "marker": {"color": colour(row["name"])}, "hovertext": hover}
    line = {"type": "scatter", "mode": "lines", "x": x, "y": [1e3 * least for least, _ in floors]}
    line |= {"line": {"shape": "hvh", "color": FAINT}, "hoverinfo": "skip", "name": "floor"}
    bar |= {"hoverinfo": "text", "name": row["name"]}
    starts = [place for place in x[1:] if names[place].split(".")[0] != names[place - 1].split(".")[0]]
    ticks = {"tickangle": 0, "tickvals": starts, "ticktext": [names[place].split(".")[0] for place in starts]}
    return {"data": [bar, line], "layout": {"xaxis": ticks, "yaxis": {"title": {"text": "ms"}}, "height": 280}}


def roofline(results: dict) -> dict:
    """GFLOP/s against FLOP per byte of weights: the versions, and each version's layers, under both roofs."""
    data, x = [], np.geomspace(0.3, 1e5, 60)
    for count in sorted({1, results["machine_info"]["cores"]}):
        flops, bandwidth = (quantities.ceiling(results, what, count) for what in ("flops", "bandwidth"))
        line = {"color": FAINT, "dash": "solid" if count == 1 else "dash"}
        roof = {"x": x.tolist(), "y": (np.minimum(flops, x * bandwidth) / 1e9).tolist()}
        data.append({"type": "scatter", "mode": "lines", "name": plural(count, "core"), "line": line} | roof)
    described = architecture.layers(results["settings"]["image_size"])
    intensities = [layer.flops / layer.bytes for layer in described]
    for row in group(results, "profile"):
        rates = [layer.flops / sum(row["parts"][layer.name].values()) / 1e9 for layer in described]
        dots = {"type": "scatter", "mode": "markers", "x": intensities, "y": rates}
        dots |= {"marker": {"color": colour(row["name"]), "size": 6, "opacity": 0.6}}
        dots |= {"name": f"layers of {row['name']}", "text": [layer.name for layer in described]}
        data.append(dots | {"visible": True if row["name"] == "v5_codegen" else "legendonly"})
    intensity = sum(layer.flops for layer in described) / sum(layer.bytes for layer in described)
    for name, row in quantities.step_rows(results).items():
        look = {"color": colour(name), "size": 12, "symbol": "diamond", "line": {"width": 1}}
        point = {"type": "scatter", "mode": "markers", "x": [intensity], "y": [row["gflops"]]}
        data.append(point | {"name": name, "marker": look})
    titles = {"xaxis": "FLOP per byte of weights", "yaxis": "effective GFLOP/s"}
    layout = {axis: {"type": "log", "title": {"text": text}} for axis, text in titles.items()}
    return {"data": data, "layout": layout | {"height": 520, "showlegend": True}}


def plots(results: dict) -> dict[str, dict]:
    """{heading: a plot as Plotly takes it}, of whatever the results file has."""
    found = {}
    if rows := list(quantities.step_rows(results).values()):
        found["One picture in each version"] = bars(rows, "ms, log scale", type="log")
    for count in quantities.race_counts(results):
        for precision in ("float32", "int8"):
            rows = [row for row in group(results, race_group(count)) if row["precision"] == precision]
            rows = [row for row in rows if row["threads"] == count and row["name"][:2] not in ("v1", "v2")]
            if rows:
                heading = f"Race in {precision} on {plural(count, 'thread')}"
                found[heading] = bars(sorted(rows, key=lambda row: row["median"]), "one picture, ms")
    found["Roofline"] = roofline(results)
    for row in group(results, "profile"):
        found[f"Layers of {row['name']}, {plural(row['threads'], 'thread')}"] = layers(results, row)
    return found


def html(table: Table) -> str:
    """A table as HTML; the tables are made for the README, and so their links are to Markdown files from the root."""
    return re.sub(r'(href="[\w./-]+)\.md(?=[#"])', r"\1.html", MARKDOWN.render(table.text("pipe")))


def machine(results: dict) -> dict:
    """What the page shows of one results file."""
    info = results["machine_info"]
    numbers = generation(info)
    shown = {heading: html(make(results)) for heading, make in TABLES.items()}
    name = f"{info['processor']}{f' ({numbers})' if numbers else ''}, {plural(info['cores'], 'core')}"
    return {"name": name, "about": html(tables.environment(results)), "tables": shown} | {
        "plots": {heading: json.dumps(plot) for heading, plot in plots(results).items()}
    }


def results_page(app: Sphinx) -> Iterator[tuple[str, dict, str]]:
    yield "results", {"title": "Results", "machines": list(map(machine, of_all_machines()))}, "results.html"


def setup(app: Sphinx) -> dict:
    app.connect("html-collect-pages", results_page)
    return {"parallel_read_safe": True}
