"""The tables of versions and engines: races, profiles, and what articles make of them."""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from statistics import median

from bench.ablations import ABLATIONS, AS_IT_IS
from bench.counts import work
from bench.experiments import plural, race_group
from bench.machine import generation
from bench.profile import OPERATORS, PRODUCTS
from bench.quantities import (
    ablation_rows,
    ceiling,
    convolutions,
    floor,
    isa,
    measured_terms,
    of_peak,
    pairs,
    peaks,
    predicted_terms,
    race_counts,
    ratio,
    step_rows,
)
from bench.race import CALLS
from bench.results import group, of_all_machines
from bench.text import MISSING, Table, derived, digits, milliseconds, percent, times, two_digits
from common.architecture import layers
from common.versions import BEFORE, VERSIONS

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
TOLERATED = 0.2  # of a predicted term

STEP_CELLS: dict[str, Callable[[dict], str]] = {
    "one picture, ms": milliseconds,
    "× previous": lambda row: times(row["before"], row),
    "× v1": lambda row: times(row["first"], row),
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
        "× previous: versions 7 to 9 all go on from version 6, and are compared with it. Peak: multiply-adds alone, "
        "in the same rounds. Effective: a picture counts as the float32 operations of direct convolution. Version 7 "
        "does fewer, version 8 and, with AMX, version 9 multiply bytes, so they may pass float32's peak. Images/s: a "
        "process a core, one thread each. Error: the largest of a logit. Weights are random, with which version 8 does "
        "worst; [how it does on pictures](v8_int8/README.md#accuracy).",
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


def missing(experiment: str, rows: Collection = ()) -> list[str]:
    """What to say in place of a table without rows."""
    return [] if rows else [f"Not measured: `python -m bench {experiment}`."]


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
                claims = claims.replace(" and ", ", ", len(ours) - 2)
                fastest = f"On {plural(count, 'thread')} the fastest engine in {precision} is {engine['name']}"
                notes.append(f"{fastest}; {claims} as fast.")
    headings = ["", "numbers", "threads", "one picture, ms", "p95", "p99", "÷ fastest", "memory, MiB"]
    notes += [f"{row}; see [version 8](v8_int8/README.md#accuracy)." for row in labelled(results)]
    return Table([*headings, "error of a logit", "accuracy"], rows, notes)


def race_with_tiles(machines: list[dict]) -> Table:
    """The races in float32 where version 9 took part with AMX: versions 6, 7 and 9, and the fastest engine.

    On the machine that we had, tiles have two speeds, so the best round and the worst stand beside the median.
    """
    rows = []
    for results in machines:
        for count in race_counts(results) if "amx_int8" in results["machine_info"]["instruction_sets"] else ():
            timed = {row["name"]: row for row in group(results, race_group(count)) if row["precision"] == "float32"}
            engines = sorted((row for row in timed.values() if row["name"] not in VERSIONS), key=lambda r: r["median"])
            ours = [timed[name] for name in (*VERSIONS[5:7], VERSIONS[8]) if name in timed]
            for row in [*ours, *engines[:1]] if VERSIONS[8] in timed else ():
                cells = [milliseconds(row), *(digits(row[key], 1e-3) for key in ("min", "max"))]
                cells += [times(row, timed[VERSIONS[8]], ""), f"{row['max_abs_error']:.0e}"]
                rows.append([machine(results), str(count), f"`{row['name']}`", *cells])
    headings = ["processor", "threads", "", "one picture, ms", "best round", "worst", "÷ v9", "error of a logit"]
    return Table(headings, rows, missing("race", rows))


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


def environment(results: dict) -> Table:
    info, peak = results["machine_info"], [digits(results["peak"][key], 1e9) for key in ("flops_1", "flops")]
    commits = ", ".join(dict.fromkeys(b["extra_info"]["commit"] for b in results["benchmarks"]))
    sentence = (
        f"Measured on {info['processor']}, {info['cores']} of {info['cores_in_machine']} cores; highest GFLOP/s of "
        f"multiply-adds alone: one core {peak[0]}, all {peak[1]} (“of peak” means that of the same rounds); "
        f"{info['python']}, NumPy {info['numpy']} with {info['blas']}; {info['compiler']}; {info['os']}; "
        f"commit {commits}, {results['datetime'][:10]}."
    )
    return Table(notes=[sentence])


def machines(_: dict) -> Table:
    """Versions 7 and 8 against the fastest engines, in every file that the repository carries."""
    rows = []
    for results in of_all_machines():
        for count in race_counts(results):
            row = [machine(results, *results["machine_info"]["instruction_sets"]), str(count)]
            for ours, engine in pairs(results, count):
                both = [derived(1e3 * one["median"], one) for one in (ours, engine)] if ours and engine else []
                row += [*both, engine["name"], times(engine, ours, "")] if both else [MISSING] * 4
            rows.append(row)
    headings = ["processor", "threads", "v7, ms", "engine, ms", "fastest in float32", "engine ÷ v7"]
    return Table([*headings, "v8, ms", "engine, ms", "fastest in int8", "engine ÷ v8"], rows)


def machine(results: dict, *features: str) -> str:
    """The processor, what tells it from others of its name, features, and the day."""
    info = results["machine_info"]
    said = f"{generation(info) or info['machine']}{'; ' * bool(features)}{', '.join(features)}"
    return f"{info['processor']} ({said}), {results['datetime'][:10]}"


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
        best = isa(results, name)
        done = work(name, row["image_size"], best)
        intensity, rate = done.flops / done.bytes, done.flops / row["median"]
        flops, bandwidth = (ceiling(results, what, row["threads"]) for what in ("flops", "bandwidth"))
        bytewise = name == VERSIONS[7] or best == "amx"  # products of bytes have another roof
        roof = None if bytewise else min(flops, intensity * bandwidth) / 1e9
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
    """Versions in every instruction set of the machine, each beside the peak of that instruction set in its rounds.

    Version 8 does not compute in float32 and has a table of its own.
    """
    rows, found = [], [row for row in group(results, "instruction sets") if row.get("version") != VERSIONS[7]]
    for row, after in zip(found, [*found[1:], {}]):  # the widest first
        narrower = after if (after.get("version"), after.get("threads")) == (row["version"], row["threads"]) else None
        effective = row["version"] == VERSIONS[6] or row.get("isa") == "amx"
        share = derived(100 * of_peak(results, row), row, " %" + " (effective)" * effective)
        cells = [f"`{row['version']}`", str(row["threads"]), row.get("isa", MISSING), milliseconds(row)]
        rows.append([*cells, digits(median(peaks(results, row)), 1e9), share, times(narrower, row)])
    headings = ["", "threads", "instruction set", "one picture, ms", "peak, GFLOP/s", "of peak", "× narrower"]
    notes = failures(results, "instruction sets") + missing("isas", group(results, "instruction sets"))
    return Table(headings, rows, notes)


def int8_instruction_sets(machines: list[dict]) -> Table:
    """Version 8 in every instruction set of the machines on which they took turns, the best first."""
    rows = []
    for results in machines:
        name = machine(results)
        found = [row for row in group(results, "instruction sets") if row.get("version") == VERSIONS[7]]
        for row, after in zip(found, [*found[1:], {}]):
            following = after if after.get("threads") == row["threads"] else None
            rows.append([name, str(row["threads"]), row["isa"], milliseconds(row), times(following, row)])
            name = ""
    notes = ["× next: how often as fast as the instruction set in the row below."] if rows else []
    return Table(["processor", "threads", "instruction set", "one picture, ms", "× next"], rows, notes)


def ablations(results: dict, version: str) -> Table:
    """How many times as long a picture takes with a part of a version changed, round by round."""
    columns = ablation_rows(results, version)
    names = [AS_IT_IS, *ABLATIONS[version]]
    rows = [[name, *(ablation(rows, name) for rows in columns.values())] for name in names] if columns else []
    notes = failures(results, f"ablations, {version}") + missing(f"ablations {version.partition('_')[0]}", rows)
    return Table([f"`{version}`, but", *columns], rows, notes)


def ablation(rows: dict[str, dict], name: str) -> str:
    if name not in rows or AS_IT_IS not in rows:
        return MISSING
    return f"{milliseconds(rows[name])} ms" if name == AS_IT_IS else times(rows[name], rows[AS_IT_IS], "")


def throughput(results: dict) -> Table:
    """Pictures a second of every way to share the cores, and how long each picture takes in it."""
    rows = []
    for row in group(results, "throughput"):
        quantiles = [digits(row[key], 1e-3) for key in ("p50", "p95", "p99")]
        rows.append([row["name"], digits(1 / row["median"]), *quantiles, digits(row["peak_memory"], 2**20)])
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
