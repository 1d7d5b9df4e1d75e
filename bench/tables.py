"""Results as tables: on the terminal, and between markers in Markdown files.

`<!-- bench:NAME -->` and `<!-- /bench:NAME -->` enclose what `python -m bench table` writes; NAME is one of SECTIONS.
"""

import json
import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from math import floor as floor_of
from math import log10
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from tabulate import tabulate

from bench.counts import work
from bench.experiments import plural, race_group
from bench.ladder import LAYERS, RUNGS
from bench.machine import generation
from bench.profile import OPERATORS, PRODUCTS, READ
from bench.race import CALLS
from bench.results import ResultsError, group, of_all_machines
from common.architecture import Layer, layers
from common.marked import fill
from common.versions import BEFORE, VERSIONS

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
MISSING = "–"
TOLERATED = 0.2  # of a predicted term
IN_ORDER = "convolutions, objects in order"  # of version 1


class Table(NamedTuple):
    """Rows of texts under headings, and sentences below them."""

    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()

    def text(self, style: str) -> str:
        """style: one of tabulate's, "pipe" for Markdown."""
        alignment = ("left", *["right"] * (len(self.headings) - 1))
        table = tabulate(self.rows, self.headings, tablefmt=style, disable_numparse=True, colalign=alignment)
        return "\n\n".join([table] * bool(self.rows) + list(self.notes))


def digits(value: float | None, unit: float = 1, after: str = "") -> str:
    """Three of them: more is not known of a time."""
    if not value:
        return MISSING if value is None else "0"
    rounded = float(f"{value / unit:.3g}")
    whole = rounded >= 100 or (unit == 1 and isinstance(value, int))
    return (f"{rounded:,.0f}" if whole else f"{rounded:#.3g}") + after


def known(value: float, spread: float) -> tuple[str, str]:
    """Both, rounded to the spread's first digit, or to its second if the first is 1."""
    if not spread:
        return digits(value), "0"
    spread = float(f"{spread:.2g}")  # 0.996 is 1.0, which begins with 1
    place = floor_of(log10(spread))
    places = -place + (spread / 10**place < 2)
    return tuple(f"{round(number, places):,.{max(places, 0)}f}" for number in (value, spread))


def two_digits(value: float) -> str:
    """Of what was measured once."""
    return f"{float(f'{value:.2g}'):,g}"


def milliseconds(row: dict) -> str:
    """The median and half the distance between the quartiles."""
    if row["rounds"] == 1:
        return two_digits(1e3 * row["median"]) + " (one run)"
    return " ± ".join(known(1e3 * row["median"], row["iqr"] / 2e-3))


def derived(value: float | None, row: dict, after: str = "") -> str:
    """What was computed from a row's time, with as many digits as that is known to."""
    if value is None:
        return MISSING
    if row["rounds"] == 1:
        return two_digits(value) + after
    return known(value, value * row["iqr"] / 2 / row["median"])[0] + after


def ratio(one: dict, other: dict) -> float:
    """How many times as long `one` takes as `other`: the median of the rounds' own ratios."""
    return median(ratios(one, other))


def ratios(one: dict, other: dict) -> list[float]:
    """Each round's own; a single one if there was but one round, as of version 1, which does not take turns."""
    if 1 in (one["rounds"], other["rounds"]):
        return [one["median"] / other["median"]]
    return [a / b for a, b in zip(one["data"], other["data"])]


def times(one: dict | None, other: dict, after: str = "×") -> str:
    """The ratio as text, with half the distance between the quartiles of the rounds' own."""
    if one is None:
        return MISSING
    if len(found := ratios(one, other)) == 1:
        return ("1" if found == [1.0] else f"≈ {two_digits(found[0])}") + after
    low, _, high = quantiles(found, n=4, method="inclusive")
    middle, spread = known(median(found), (high - low) / 2)
    return f"{middle}{after}" + f" ± {spread}" * (spread != "0")


def ceiling(results: dict, what: str, threads: int) -> float:
    """What so many cores can do at most. what: "flops" or "bandwidth"."""
    peak = results["peak"]
    return min(threads * peak[f"{what}_1"], peak[what]) if threads > 1 else peak[f"{what}_1"]


def peaks(results: dict, row: dict) -> list[float]:
    """FLOP a second of multiply-adds alone in each of the row's rounds; in files that lack them, the best of all."""
    return row.get("peaks") or [ceiling(results, "flops", row["threads"])] * row["rounds"]


def of_peak(results: dict, row: dict) -> float:
    """The share that a version reaches of what its cores did in the same round with multiply-adds alone: the median."""
    return median(row["flops"] / seconds / peak for seconds, peak in zip(row["data"], peaks(results, row)))


def race_counts(results: dict) -> list[int]:
    """The numbers of threads that there are races of."""
    groups = {benchmark["group"] for benchmark in results["benchmarks"]}
    return sorted(int(name.split()[1]) for name in groups if name.startswith("race, "))


def step_rows(results: dict) -> dict[str, dict]:
    """{version: what its row needs}, from the race on all cores; versions that failed are left out."""
    raced = {row["name"]: row for count in race_counts(results)[-1:] for row in group(results, race_group(count))}
    alone = {row["version"]: row for row in group(results, "throughput") if row["threads"] == 1}
    rows = {}
    for name in VERSIONS:
        before = BEFORE.get(name)
        if row := raced.get(name):
            rows[name] = row | {
                "of_peak": of_peak(results, row),
                "images": 1 / alone[name]["median"] if name in alone else None,
                "previous": ratio(raced[before], row) if before in raced else None,
                "times_previous": times(raced.get(before), row),
                "times_first": times(raced.get(VERSIONS[0]), row),
            }
    return rows


STEP_CELLS: dict[str, Callable[[dict], str]] = {
    "one picture, ms": lambda row: milliseconds(row),
    "× previous": lambda row: row["times_previous"],
    "× v1": lambda row: row["times_first"],
    "effective GFLOP/s": lambda row: derived(row["gflops"], row),
    "of peak": lambda row: derived(100 * row["of_peak"], row, " %" + " (effective)" * (row["of_peak"] > 1)),
    "images/s": lambda row: derived(row["images"], row),
    "arrays": lambda row: digits(row.get("arrays")),
    "allocated, MiB": lambda row: digits(row.get("array_bytes"), 2**20),
    "page faults": lambda row: digits(row.get("faults")),
    "memory, MiB": lambda row: digits(row["peak_memory"], 2**20),
    "start-up, s": lambda row: digits(row["startup_seconds"]),
    "error of a logit": lambda row: f"{row['max_abs_error']:.0e}",
}


def all_steps(results: dict) -> Table:
    """All versions, and the published figures of the project that inspired them."""
    cells = {heading: cell for heading, cell in STEP_CELLS.items() if heading not in ("allocated, MiB", "page faults")}
    rows = [[f"`{name}`", *(cell(row) for cell in cells.values())] for name, row in step_rows(results).items()]
    published = ", ".join(f"{step['ms']:,}" for step in PUBLISHED["steps"].values())
    notes = [
        "Medians ± half the distance between the quartiles, of times and of the rounds' own ratios; all versions but "
        "`v1_loops`, which ran once, took turns. One thread up to version 5, all cores from version 6 on. "
        "× previous: versions 7 and 8 both go on from version 6, and are compared with it. Peak: multiply-adds alone, "
        "in the same rounds. Effective: a picture counts as the float32 operations of direct convolution. Version 7 "
        "does fewer, version 8 computes with bytes, so both may pass float32's peak. Images/s: a process a core, one "
        "thread each. Error: the largest of a logit. Weights are random, with which bytes do worst; [how version 8 "
        "does on pictures](v8_int8/README.md#accuracy).",
        f"The six steps of {PUBLISHED['label']}, which inspired this project: {published} ms ({PUBLISHED['note']}).",
    ]
    return Table(["step", *cells], rows, failures(results, "race") + notes)


def step(results: dict, version: str) -> Table:
    """One version beside the one before it, a column each."""
    rows = step_rows(results)
    shown = [name for name in (BEFORE.get(version), version) if name in rows]
    table = [[heading, *(cell(rows[name]) for name in shown)] for heading, cell in STEP_CELLS.items()]
    return Table(["", *(f"`{name}`" for name in shown)], table, failures(results, "race") + environment(results).notes)


def failures(results: dict, of: str) -> list[str]:
    """Why contenders were not timed."""
    found = [item for item in results["failed"] if item["group"].startswith(of)]
    return [f"Not timed: `{item['name']}` ({item['group']}): {item['reason']}." for item in found]


def race(results: dict) -> Table:
    """The races in float32, then in int8: times, and how often the fastest's of the group, round by round.

    Below them how our versions compare with the engines.
    """
    rows, notes = [], failures(results, "race")
    named = {row["name"]: row for row in group(results, "accuracy")}
    for precision in ("float32", "int8"):
        for count in race_counts(results):
            timed = [row for row in group(results, race_group(count)) if row["threads"] == count]
            timed = [row for row in timed if row["precision"] == precision]
            order = sorted(timed, key=lambda row: row["median"])
            for row in timed:
                tail = [row[key] if row.get("calls", 0) >= CALLS else None for key in ("p95", "p99")]
                cells = [milliseconds(row), *(digits(seconds, 1e-3) for seconds in tail), times(row, order[0], "")]
                cells += [digits(row["peak_memory"], 2**20), f"{row['max_abs_error']:.0e}"]
                cells.append(percent(named[row["name"]]["accuracy"]) if row["name"] in named else MISSING)
                rows.append([f"`{row['name']}`", precision, str(count), *cells])
            chosen = (VERSIONS[4 if count == 1 else 5], *VERSIONS[6:])
            ours = [row for row in timed if row["name"] in chosen]
            for engine in [row for row in order if ours and row["name"] not in VERSIONS][:1]:
                claims = " and ".join(f"`{row['name']}` is **{ratio(engine, row):.2f} times**" for row in ours)
                fastest = f"On {plural(count, 'thread')} the fastest engine in {precision} is {engine['name']}"
                notes.append(f"{fastest}; {claims} as fast.")
    headings = ["", "numbers", "threads", "one picture, ms", "p95", "p99", "÷ fastest", "memory, MiB"]
    notes += [f"{row}; see [version 8](v8_int8/README.md#accuracy)." for row in labelled(results)]
    return Table([*headings, "error of a logit", "accuracy"], rows, notes)


def accuracy(results: dict) -> Table:
    """What smaller numbers cost: the small model's answers on labelled pictures."""
    measured = group(results, "accuracy")
    base = next((row for row in measured if row["precision"] == "float32"), None)
    rows = []
    for row in measured:
        cells = [f"`{row['name']}`", row["precision"], *(percent(row[key]) for key in ("accuracy", "top5"))]
        rows.append(
            cells + [f"{100 * (row[key] - base[key]):+.2f}" if base else MISSING for key in ("accuracy", "top5")]
        )
    notes = failures(results, "accuracy") + [f"{text}." for text in labelled(results)]
    return Table(["", "numbers", "top-1", "top-5", "points", "points"], rows, notes)


def labelled(results: dict) -> list[str]:
    """What the accuracy is a share of, if it was measured."""
    text = "Accuracy of the small model of weights/demo on {calls:,} pictures, seen at {image_size}×{image_size}"
    return [text.format(**row) for row in group(results, "accuracy")[:1]]


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def environment(results: dict) -> Table:
    info, peak = results["machine_info"], [digits(results["peak"][key], 1e9) for key in ("flops_1", "flops")]
    commits = ", ".join(dict.fromkeys(b["extra_info"]["commit"] for b in results["benchmarks"]))
    sentence = (
        f"Measured on {info['processor']}, {info['cores']} of {info['cores_in_machine']} cores; peak GFLOP/s measured: "
        f"one core {peak[0]}, all {peak[1]}; {info['python']}, NumPy {info['numpy']} with {info['blas']}; "
        f"{info['compiler']}; {info['os']}; commit {commits}, {results['datetime'][:10]}."
    )
    return Table(notes=[sentence])


def machines(_: dict) -> Table:
    """Our fastest against the fastest engine, in every file that the repository carries."""
    rows = []
    for results in of_all_machines():
        info = results["machine_info"]
        machine = f"{info['processor']} ({generation(info) or info['machine']}; {', '.join(info['instruction_sets'])})"
        for count in race_counts(results):
            row = [f"{machine}, {results['datetime'][:10]}", str(count)]
            for ours, engine in pairs(results, count):
                both = [derived(1e3 * one["median"], one) for one in (ours, engine)] if ours and engine else []
                row += [*both, engine["name"], times(engine, ours, "")] if both else [MISSING] * 4
            rows.append(row)
    headings = ["processor", "threads", "v7, ms", "engine, ms", "fastest in float32", "engine ÷ v7"]
    return Table([*headings, "v8, ms", "engine, ms", "fastest in int8", "engine ÷ v8"], rows)


def pairs(results: dict, threads: int) -> list[tuple[dict | None, dict | None]]:
    """Our fastest version and the fastest engine: in float32, then in int8."""
    found = []
    for version, precision in (("v7_winograd", "float32"), ("v8_int8", "int8")):
        rows = [row for row in group(results, race_group(threads)) if row["precision"] == precision]
        engines = sorted((row for row in rows if row["name"] not in VERSIONS), key=lambda row: row["median"])
        ours = [row for row in rows if row["name"] == version and row["threads"] == threads]
        found.append((next(iter(ours), None), next(iter(engines), None)))
    return found


def operators(results: dict) -> Table:
    """Where the time of the versions that call NumPy's operators goes."""
    profiled = {row["name"]: row["parts"].values() for row in group(results, "profile")}
    names = [name for name in profiled if name in VERSIONS[:4]]
    rows = []
    for operator in OPERATORS:
        sums = [sum(part.get(operator, 0.0) for part in profiled[name]) for name in names]
        rows.append([f"`{operator}`", *(digits(seconds or None, 1e-3) for seconds in sums)])
    return Table(["operator, ms", *(f"`{name}`" for name in names)], rows)


def ceilings(results: dict) -> Table:
    """What the machine can do at most: the two roofs and the intensity at which they meet."""
    rows = []
    for count in sorted({1, results["machine_info"]["cores"]}):
        flops, bandwidth = (ceiling(results, what, count) for what in ("flops", "bandwidth"))
        rows.append([plural(count, "core"), digits(flops, 1e9), digits(bandwidth, 1e9), digits(flops / bandwidth)])
    sizes = ", ".join(f"{name} {size}" for name, size in results["machine_info"]["caches"].items()) or "unknown"
    headings = ["", "arithmetic, GFLOP/s", "reading memory, GB/s", "the roofs meet at, FLOP a byte"]
    return Table(headings, rows, [f"Caches: {sizes}.", *environment(results).notes])


def threads(results: dict) -> Table:
    """More and more threads: the speed-up, and the serial share that it means (Amdahl 1967).

    That is s in 1 / speedup = s + (1 - s) / threads; below 0 where caches help more than that.
    """
    rows, alone = [], {}
    for row in group(results, "scaling, threads"):
        count, speedup = row["threads"], ratio(alone.setdefault(row["version"], row), row)
        share = MISSING if count == 1 else f"{100 * (count / speedup - 1) / (count - 1):.0f} %"
        one = "1×" if count == 1 else times(alone[row["version"]], row)
        rows.append([f"`{row['version']}`", str(count), milliseconds(row), one, share])
    return Table(["", "threads", "one picture, ms", "speed-up", "serial share"], rows)


def winograd(results: dict) -> Table:
    """The 3x3 convolutions that version 7 computes with Winograd's tiles, in versions 6 and 7, which took turns."""
    profiles = {row["name"]: row for row in group(results, "profile")}
    if not set(VERSIONS[5:7]) <= profiles.keys():
        return Table(notes=["Not measured: a profile of versions 6 and 7."])
    before, after = (profiles[version] for version in VERSIONS[5:7])
    found = [layer for layer in layers(results["settings"]["image_size"]) if "transform" in after["parts"][layer.name]]
    rows, saved = [], []
    for kind in dict.fromkeys((layer.out_shape, layer.stride) for layer in found):
        names = [layer.name for layer in found if (layer.out_shape, layer.stride) == kind]
        old, new = (sum(sum(row["parts"][name].values()) for name in names) / len(names) for row in (before, after))
        transform = sum(after["parts"][name]["transform"] for name in names) / len(names)
        cells = [digits(old, 1e-3), digits(new, 1e-3), digits(transform, 1e-3), MISSING]
        if all(set(names) <= row.get("turns", {}).keys() for row in (before, after)):
            rounds = [[sum(turn) for turn in zip(*(row["turns"][name] for name in names))] for row in (after, before)]
            saved.append([b - a for a, b in zip(*rounds)])
            cells[-1] = times(*({"rounds": len(data), "data": data, "median": median(data)} for data in rounds), "")
        shape, stride = kind
        rows.append([f"{len(names)} of {'×'.join(map(str, shape))}" + f", stride {stride}" * (stride > 1), *cells])
    notes = []
    raced = step_rows(results)
    if saved and set(VERSIONS[5:7]) <= raced.keys():
        layers_saved = 1e3 * median(map(sum, zip(*saved)))
        old, new = (raced[version]["data"] for version in VERSIONS[5:7])
        race_saved = 1e3 * median(a - b for a, b in zip(old, new))
        notes = [f"Together they save {layers_saved:.0f} ms of a picture; in the race it was {race_saved:.0f} ms."]
    return Table(["layers", "v6, ms", "v7, ms", "of it the input's transform, ms", "v7 ÷ v6"], rows, notes)


def isa(results: dict) -> str:
    """The versions' name for the widest vectors of the machine."""
    sets = results["machine_info"]["instruction_sets"]
    names = {"avx512f": "avx512", "avx2": "avx2", "asimd": "neon"}
    return next((name for key, name in names.items() if key in sets), "generic128")


def predicted_terms(results: dict, version: str) -> dict[str, float]:
    """{term: seconds} by article 16's model, from the machine's constants and the counts."""
    peak = results["peak"]
    counted = work(version, results["settings"]["image_size"], isa(results))
    flops = sum(layer.flops for layer in layers(results["settings"]["image_size"]))
    if version == VERSIONS[0]:
        return dict.fromkeys(("interpreter", IN_ORDER), flops / 2 / peak["turns"])
    terms = {"products": flops / peak["blas"], "passes": counted.passes / peak["bandwidth_1"]}
    if counted.read:
        terms["files"] = counted.tensors / peak["tensors"] + counted.read / peak["copied"]
    return terms | {"interpreter": counted.operators / peak["calls"]}


def measured_terms(results: dict, version: str) -> dict[str, float]:
    """The same terms, from the version's profile. Products: alone, in turns with the pictures; passes: the rest of the
    operators; interpreter: what passes between them, and all of version 1."""
    for row in group(results, "profile"):
        if row["name"] == version and "products" in row:
            parts = row["parts"].values()
            read = sum(part.get(READ, 0.0) for part in parts)
            called = sum(sum(part.values()) for part in parts) - read
            terms = {"products": row["products"], "passes": called - row["products"], "files": read}
            return terms | {"interpreter": row["rest"], "sum": row["median"]}
    row = step_rows(results).get(version)
    terms = dict.fromkeys(("interpreter", "sum") if version == VERSIONS[0] else ("sum",), row["median"]) if row else {}
    ordered = (convolutions(row) for row in group(results, "objects") if row["name"] == "in order")
    return terms | {IN_ORDER: next(ordered, None)}


def predicted(results: dict) -> Table:
    """Article 16's prediction against the profile, term by term, for the versions before it."""
    rows, peak = [], results["peak"]
    for version in VERSIONS[:4]:
        terms, measured = predicted_terms(results, version), measured_terms(results, version)
        if "products" in terms:
            terms["sum"] = sum(terms.values())
        for term, seconds in terms.items():
            found = measured.get(term)
            cells = [two_digits(1e3 * seconds), two_digits(1e3 * found) if found else MISSING]
            missed = found / seconds - 1 if found else None
            large = missed is not None and abs(missed) > TOLERATED
            cells += [MISSING if missed is None else f"{'**' * large}{missed:+.0%}{'**' * large}".replace("%", " %")]
            rows.append([f"`{version}`" if term == next(iter(terms)) else "", term, *cells])
    flops = sum(layer.flops for layer in layers(results["settings"]["image_size"]))
    cores = results["machine_info"]["cores"]
    ahead = [two_digits(1e3 * flops / ceiling(results, "flops", count)) for count in (1, cores)]
    weights = two_digits(1e3 * sum(layer.bytes for layer in layers()) / peak["bandwidth_1"])
    notes = [f"Bold: more than {TOLERATED:.0%} off.".replace("%", " %")]
    notes += [f"For the steps to come: all products at the peak take {ahead[0]} ms on one core and {ahead[1]} ms on "
              f"{cores}; the weights arrive in {weights} ms, during that time or after it."]  # fmt: skip
    return Table(["version", "term", "predicted, ms", "measured, ms", "missed by"], rows, notes)


def objects(results: dict) -> Table:
    """What a turn of version 1's innermost loop takes in each stage, as it is and with the numbers in order."""
    found, stages = group(results, "objects"), {}
    for number, layer in enumerate(layers(results["settings"]["image_size"])[:-1]):  # all but the classifier
        stages.setdefault(layer.name.partition(".")[0], []).append((number, layer))
    rows = []
    for stage, of_stage in stages.items() if found else ():
        turns, cells = sum(layer.flops for _, layer in of_stage) / 2, []
        for row in found:
            seconds = sum(row["parts"][layer.name]["conv2d"] for _, layer in of_stage)
            adjacent = sum(row["adjacent"][number] * layer.weights for number, layer in of_stage)
            share = adjacent / sum(layer.weights for _, layer in of_stage)
            cells += [digits(seconds / turns, 1e-9), f"{100 * share:.0f} %"]
        rows.append([f"`{stage}`", digits(turns, 1e6), *cells])
    sums = ", ".join(f"{row['name']} {two_digits(convolutions(row))} s" for row in found)
    notes = [*failures(results, "objects"), *([f"All convolutions: {sums}."] if found else missing("objects"))]
    columns = [f"{row['name']}: {what}" for row in found for what in ("a turn, ns", "adjacent")]
    return Table(["", "million turns", *columns], rows, notes)


def convolutions(profiled: dict) -> float:
    """Seconds of all of a profile's convolutions."""
    return sum(part.get("conv2d", 0.0) for part in profiled["parts"].values())


def constants(results: dict) -> Table:
    """What the prediction is made of, each the best of several measurements."""
    shown = {
        "multiply-adds at the peak, one core": ("flops_1", 1e9, "GFLOP/s"),
        "BLAS, a square product of 1024": ("blas", 1e9, "GFLOP/s"),
        "reading memory, one core": ("bandwidth_1", 1e9, "GB/s"),
        "copying a tensor out of the file": ("copied", 1e9, "GB/s"),
    }
    costs = {
        "reading a small tensor": ("tensors", "µs", 1e6),
        "a call of NumPy": ("calls", "µs", 1e6),
        "a turn of version 1's innermost loop": ("turns", "ns", 1e9),
    }
    peak = results["peak"]
    rows = [[name, digits(peak[key], unit), text] for name, (key, unit, text) in shown.items()]
    rows += [[name, digits(unit / peak[key]), text] for name, (key, text, unit) in costs.items()]
    return Table(["constant", "measured", ""], rows, environment(results).notes)


def amounts(results: dict) -> Table:
    """What each version does and moves, and where that puts it under the roof of the cores that it uses."""
    rows = []
    for name, row in step_rows(results).items():
        done = work(name, row["image_size"], isa(results))
        intensity, rate = done.flops / done.bytes, done.flops / row["median"]
        flops, bandwidth = (ceiling(results, what, row["threads"]) for what in ("flops", "bandwidth"))
        roof = None if name == VERSIONS[7] else min(flops, intensity * bandwidth) / 1e9  # bytes have another
        cells = [digits(done.flops, 1e9), digits(done.bytes, 1e6), two_digits(intensity)]
        rows.append([f"`{name}`", *cells, derived(rate / 1e9, row), two_digits(roof) if roof else MISSING])
    headings = ["version", "GFLOP", "MB moved", "FLOP a byte", "GFLOP/s", "roof there, GFLOP/s"]
    return Table(headings, rows)


def batches(results: dict) -> Table:
    """Pictures a second when several are computed together."""
    points: dict[str, dict[int, str]] = {}
    for row in group(results, "batches"):
        points.setdefault(row["version"], {})[row["batch"]] = derived(1 / row["median"], row)
    if not points:
        return Table(notes=["Not measured: `python -m bench batches`."])
    columns = sorted({batch for own in points.values() for batch in own})
    rows = [[f"`{name}`", *(own.get(batch, MISSING) for batch in columns)] for name, own in points.items()]
    return Table(["images/s, batch of", *map(str, columns)], rows, failures(results, "batches"))


def floor(layer: Layer, results: dict, profiled: dict) -> tuple[float, str]:
    """The least seconds that a direct convolution can take, and what sets it. profiled: a version's row."""
    arithmetic = layer.flops / median(peaks(results, profiled))
    memory = layer.bytes / ceiling(results, "bandwidth", profiled["threads"])
    return max((arithmetic, "arithmetic"), (memory, "memory"))


def profile(results: dict, version: str) -> Table:
    """Every layer's time, effective rate, share of the picture's time, and distance from its floor."""
    (profiled,) = (row for row in group(results, "profile") if row["name"] == version)
    parts, total, rows = profiled["parts"], profiled["median"], []
    described = {layer.name: layer for layer in layers(results["settings"]["image_size"])}
    rest = profiled.get("rest", total - sum(sum(part.values()) for part in parts.values()))
    for name, part in (parts | {"between layers": {"": rest}}).items():
        seconds = sum(part.values())
        cells = [name, "", digits(seconds, 1e-3), f"{seconds / total:.1%}"]
        if layer := described.get(name):
            cells[1] = "×".join(map(str, layer.in_shape)) + f", {layer.kernel}×{layer.kernel} / {layer.stride}"
            least, limit = floor(layer, results, profiled)
            other = seconds - sum(part.get(operator, 0.0) for operator in PRODUCTS)
            cells += [digits(layer.flops / seconds, 1e9), f"{seconds / least:.2f}", limit, digits(other, 1e-3)]
        rows.append(cells)
    headings = ["layer", "input, kernel", "ms", "share", "eff. GFLOP/s", "× floor", "floor set by", "rest, ms"]
    return Table(headings, rows, [f"{version}, {plural(profiled['threads'], 'thread')}: {milliseconds(profiled)} ms"])


def instruction_sets(results: dict) -> Table:
    """Versions in every instruction set of the machine, each beside the peak of that instruction set in its rounds."""
    rows, found = [], group(results, "instruction sets")
    for row, after in zip(found, [*found[1:], {}]):  # the widest first
        narrower = after if (after.get("version"), after.get("threads")) == (row["version"], row["threads"]) else None
        share = derived(100 * of_peak(results, row), row, " %" + " (effective)" * (row["version"] == VERSIONS[6]))
        cells = [f"`{row['version']}`", str(row["threads"]), row.get("isa", MISSING), milliseconds(row)]
        rows.append([*cells, digits(median(peaks(results, row)), 1e9), share, times(narrower, row)])
    headings = ["", "threads", "instruction set", "one picture, ms", "peak, GFLOP/s", "of peak", "× narrower"]
    notes = failures(results, "instruction sets") + missing("isas", rows)
    return Table(headings, rows, notes)


def missing(experiment: str, rows: Collection = ()) -> list[str]:
    """What to say in place of a table without rows."""
    return [] if rows else [f"Not measured: `python -m bench {experiment}`."]


def ladder_isas(results: dict) -> list[str]:
    """The instruction sets on which the ladder was climbed, the best first."""
    groups = dict.fromkeys(benchmark["group"] for benchmark in results["benchmarks"])
    found = [name.removeprefix("ladder, ") for name in groups if name.startswith("ladder, ")]
    return [name for name in found if name not in ("tiles", "chains")]


def ladder_rows(results: dict, isa: str | None = None) -> dict[str, dict[str, dict]]:
    """{rung: {layer: row}} of an instruction set, the best unless named."""
    found = ladder_isas(results)
    isa = isa or next(iter(found), None)
    rows: dict[str, dict[str, dict]] = {}
    for row in group(results, f"ladder, {isa}"):
        rows.setdefault(row["rung"], {})[row["layer"]] = row
    return {name: rows[name] for name in RUNGS if name in rows}


def of_best(results: dict, row: dict) -> str:
    """The share of the best rate that was ever measured: a rung's fastest turn is such a best, too."""
    return digits(row["gflops"] * 1e9 / results["peak"]["flops_1"], 0.01, " %")


def ladder(results: dict) -> Table:
    """Every rung's fastest turn, its share of the peak, and its factor over the rung before."""
    rows, before, isa = [], {}, MISSING
    for name, measured in ladder_rows(results).items():
        cells, beside = [], RUNGS[name].beside
        for layer in LAYERS:
            row = measured.get(layer)
            faster = before[layer]["min"] / row["min"] if row and layer in before and not beside else None
            cells += [digits(row["min"], 1e-3), digits(row["gflops"]), of_best(results, row)] if row else [MISSING] * 3
            cells.append(digits(faster, after="×"))
            isa = row["isa"] if row else isa
        rows.append([RUNGS[name].title, *cells])
        before = before if beside or name in ("v7", "v8") else before | measured  # both go on from version 5
    headings = [f"{layer}: {what}" for layer in LAYERS for what in ("ms", "GFLOP/s", "of peak", "× before")]
    note = f"{isa}, one thread, the fastest of the turns. Versions 7 and 8: effective rate, and × version 5's."
    return Table(["", *headings], rows, [*failures(results, "ladder"), note, *environment(results).notes])


def ladder_everywhere(results: dict) -> Table:
    """GFLOP/s of every rung on every instruction set that was measured."""
    found = [ladder_rows(results, isa) for isa in ladder_isas(results)]
    rows = []
    for name, rung in RUNGS.items():
        measured = [rungs.get(name, {}).get(layer) for rungs in found for layer in LAYERS]
        rows.append([rung.title, *(digits(row and row["gflops"]) for row in measured)])
    return Table(["GFLOP/s", *(f"{isa}, {layer}" for isa in ladder_isas(results) for layer in LAYERS)], rows)


def rung(results: dict, name: str) -> Table:
    """One rung's numbers, and the beginning of the loop in which it spends its time."""
    found = ladder_rows(results).get(name, {})
    numbers = [
        f"{layer}: {digits(row['min'], 1e-3)} ms, {digits(row['gflops'])} GFLOP/s, {of_best(results, row)} of the peak"
        for layer, row in found.items()
    ]
    if not numbers:
        return Table(notes=missing("ladder"))
    row = next(iter(found.values()))
    counts = sorted(row["instructions"].items(), key=lambda item: -item[1])
    total, census = sum(row["instructions"].values()), ", ".join(f"{count} `{name}`" for name, count in counts[:4])
    first = f"; the first {len(row['assembly'])}" * (total > len(row["assembly"]))
    loop = f"The innermost loop, {row['layer']}, {row['isa']}: {total} instructions, among them {census}{first}:"
    return Table(notes=[f"**{'; '.join(numbers)}.**", loop, "\n".join(["```", *row["assembly"], "```"])])


def tiles(results: dict) -> Table:
    """GFLOP/s of register tiles of many sizes."""
    found = group(results, "ladder, tiles")
    rates = {(row["pixels"], row["vectors"]): digits(row["gflops"]) for row in found}
    vectors = sorted({v for _, v in rates})
    rows = [[str(p), *(rates.get((p, v), MISSING) for v in vectors)] for p in sorted({p for p, _ in rates})]
    notes = [f"The 3x3 on {found[0]['isa']}, GFLOP/s."] if found else missing("ladder")
    return Table(["pixels", *(plural(v, "vector") for v in vectors)], rows, failures(results, "ladder, tiles") + notes)


def chains(results: dict) -> Table:
    """GFLOP/s of multiply-adds in so many chains."""
    rates = {row["name"]: digits(row["gflops"]) for row in group(results, "ladder, chains")}
    return Table(["chains", *rates], [["GFLOP/s", *rates.values()]] * bool(rates), missing("ladder", rates))


def loads(results: dict, experiment: str) -> dict[int, str]:
    """{point: nanoseconds of a load}, the fastest of the turns."""
    return {row["point"]: digits(row["min"], 1e-9) for row in group(results, f"caches, {experiment}")}


def cache_sizes(results: dict) -> Table:
    """What Linux says of the caches; and how long a load takes from so much memory."""
    found = loads(results, "size")
    said = next((row["linux"] for row in group(results, "caches, size")), {})
    caches = [f"{name} {bytes_text(size)}, {ways} ways, {sets:,} sets" for name, (size, ways, sets) in said.items()]
    rows = [[bytes_text(size), time] for size, time in sorted(found.items()) if size & (size - 1) == 0]
    said_so = [f"Linux says: {'; '.join(caches)}."] * bool(caches)
    return Table(["bytes in use", "ns a load"], rows, said_so + missing("caches", rows))


def bytes_text(size: int) -> str:
    return f"{size >> 20:,} MiB" if size >= 1 << 20 else f"{size / 1024:g} KiB"


def cache_sets(results: dict) -> Table:
    """Lines 4096 bytes apart, which share a set of the first-level cache, and lines 4160 apart, which do not."""
    apart = {stride: loads(results, f"{stride} bytes apart") for stride in (4096, 4160)}
    rows = [[str(count), *(apart[stride].get(count, MISSING) for stride in apart)] for count in apart[4096]]
    headings = ["lines", *(f"{stride} bytes apart, ns a load" for stride in apart)]
    return Table(headings, rows, missing("caches", rows))


def cache_pages(results: dict) -> Table:
    """A line of each of so many pages, small and large; and as many lines side by side."""
    dense, small, large = (loads(results, name) for name in ("size", "pages", "pages of 2 MiB"))
    counts = [count for count in sorted(small) if count & (count - 1) == 0]
    rows = [[f"{n:,}", *(found.get(place, MISSING) for found, place in ((dense, 64 * n), (small, n), (large, n)))]
            for n in counts]  # fmt: skip
    headings = ["lines", "side by side, ns a load", "4 KiB apart", "the same in pages of 2 MiB"]
    return Table(headings, rows, missing("caches", rows))


def cache_strides(results: dict) -> Table:
    """Reading every n-th byte of 128 MiB: below a line's length nothing is saved."""
    rows = [[str(row["point"]), digits(row["min"], 1e-3)] for row in group(results, "caches, stride")]
    return Table(["a byte of every", "ms for 128 MiB"], rows, missing("caches", rows))


def throughput(results: dict) -> Table:
    """Pictures a second of every way to share the cores, and how long each picture takes in it."""
    rows = []
    for row in group(results, "throughput"):
        times = [digits(row[key], 1e-3) for key in ("p50", "p95", "p99")]
        rows.append([row["name"], digits(1 / row["median"]), *times, digits(row["peak_memory"], 2**20)])
    headings = ["processes × threads", "images/s", "a picture: p50, ms", "p95", "p99", "memory, MiB"]
    return Table(headings, rows, failures(results, "throughput"))


def sizes(results: dict) -> Table:
    """A row a contender, a column a picture size."""
    points: dict[str, dict[int, str]] = {}
    for row in group(results, "scaling, image size"):
        points.setdefault(row["version"], {})[row["image_size"]] = milliseconds(row)
    columns = sorted({size for own in points.values() for size in own})
    rows = [[version, *(own.get(size, MISSING) for size in columns)] for version, own in points.items()]
    return Table(["ms at size", *map(str, columns)], rows, failures(results, "scaling"))


SECTIONS: dict[str, Callable[[dict], Table]] = {
    "table": all_steps,
    "race": race,
    "accuracy": accuracy,
    "machine": environment,
    "machines": machines,
    "operators": operators,
    "ceilings": ceilings,
    "threads": threads,
    "winograd": winograd,
    "predicted": predicted,
    "constants": constants,
    "objects": objects,
    "amounts": amounts,
    "batches": batches,
    "throughput": throughput,
    "isas": instruction_sets,
    "ladder": ladder,
    "ladder_everywhere": ladder_everywhere,
    "tiles": tiles,
    "chains": chains,
    "cache_sizes": cache_sizes,
    "cache_sets": cache_sets,
    "cache_pages": cache_pages,
    "cache_strides": cache_strides,
} | {version.split("_")[0]: partial(step, version=version) for version in VERSIONS}
SECTIONS |= {f"rung_{name}": partial(rung, name=name) for name in RUNGS}


def marked(root: Path) -> list[Path]:
    """The README and the articles below `root` that have sections to fill."""
    pages = [*root.glob("*.md"), *sorted(root.glob("docs/*.md")), *sorted(root.glob("[bv]*/README.md"))]
    return [page for page in pages if "<!-- bench:" in page.read_text(encoding="utf-8")]


def rewrite(path: Path, results: dict) -> None:
    """Fill the marked sections of the file at `path`. Raises ResultsError if a marker is missing or unknown."""
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"<!-- bench:(\w+) -->", text):
        if name not in SECTIONS:
            raise ResultsError(f"{path}: there is no section bench:{name}")
        try:
            text = fill(text, f"bench:{name}", f"\n{SECTIONS[name](results).text('pipe')}\n\n")
        except ValueError as error:
            raise ResultsError(f"{path}: {error}") from None
    path.write_text(text, encoding="utf-8")
