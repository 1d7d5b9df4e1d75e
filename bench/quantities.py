"""What follows from results: ratios, shares of the peak, floors, and what article 16's model predicts."""

from statistics import median

from bench.counts import work
from bench.experiments import race_group
from bench.ladder import RUNGS
from bench.profile import READ
from bench.results import group
from common.architecture import Layer, layers
from common.versions import BEFORE, VERSIONS

IN_ORDER = "convolutions, objects in order"  # of version 1


def ratio(one: dict, other: dict) -> float:
    """How many times as long `one` takes as `other`: the median of the rounds' own ratios."""
    return median(ratios(one, other))


def ratios(one: dict, other: dict) -> list[float]:
    """Each round's own; a single one if there was but one round, as of version 1, which does not take turns."""
    if 1 in (one["rounds"], other["rounds"]):
        return [one["median"] / other["median"]]
    return [a / b for a, b in zip(one["data"], other["data"])]


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
        if row := raced.get(name):
            rows[name] = row | {
                "of_peak": of_peak(results, row),
                "images": 1 / alone[name]["median"] if name in alone else None,
                "before": raced.get(BEFORE.get(name)),
                "first": raced.get(VERSIONS[0]),
            }
    return rows


def pairs(results: dict, threads: int) -> list[tuple[dict | None, dict | None]]:
    """Version 7 and the fastest engine in float32, then version 8 and the fastest in int8."""
    found = []
    for version, precision in (("v7_winograd", "float32"), ("v8_int8", "int8")):
        rows = [row for row in group(results, race_group(threads)) if row["precision"] == precision]
        engines = sorted((row for row in rows if row["name"] not in VERSIONS), key=lambda row: row["median"])
        ours = [row for row in rows if row["name"] == version and row["threads"] == threads]
        found.append((next(iter(ours), None), next(iter(engines), None)))
    return found


def ablation_rows(results: dict, version: str) -> dict[str, dict[str, dict]]:
    """{"2 threads": {ablation: row}} of a version, for each number of threads that was measured."""
    groups = dict.fromkeys(benchmark["group"] for benchmark in results["benchmarks"])
    found = [name for name in groups if name.startswith(f"ablations, {version}, ")]
    return {name.rpartition(", ")[2]: {row["name"]: row for row in group(results, name)} for name in found}


def isa(results: dict, version: str) -> str:
    """A version's name for the machine's widest vectors; of version 9, which has other steps with them, for tiles."""
    sets = results["machine_info"]["instruction_sets"]
    names = {"amx_int8": "amx"} if version == VERSIONS[8] else {}
    names |= {"avx512f": "avx512", "avx2": "avx2", "asimd": "neon"}
    return next((name for key, name in names.items() if key in sets), "generic128")


def floor(layer: Layer, results: dict, profiled: dict) -> tuple[float, str]:
    """The least seconds that a direct convolution can take, and what sets it. profiled: a version's row."""
    arithmetic = layer.flops / median(peaks(results, profiled))
    memory = layer.bytes / ceiling(results, "bandwidth", profiled["threads"])
    return max((arithmetic, "arithmetic"), (memory, "memory"))


def convolutions(profiled: dict) -> float:
    """Seconds of all of a profile's convolutions."""
    return sum(part.get("conv2d", 0.0) for part in profiled["parts"].values())


def predicted_terms(results: dict, version: str) -> dict[str, float]:
    """{term: seconds} by article 16's model, from the machine's constants and the counts."""
    peak = results["peak"]
    counted = work(version, results["settings"]["image_size"], isa(results, version))
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
