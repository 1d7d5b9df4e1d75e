"""The tables of one layer's many kernels (ladder.py) and of the caches (caches.py)."""

from bench.experiments import plural
from bench.ladder import LAYERS, RUNGS
from bench.quantities import ladder_isas, ladder_rows
from bench.results import group
from bench.tables import environment, failures, missing
from bench.text import MISSING, Table, bytes_text, digits


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
