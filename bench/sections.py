"""Tables between markers in Markdown files.

`<!-- bench:NAME -->` and `<!-- /bench:NAME -->` enclose what `python -m bench table` writes; NAME is one of SECTIONS.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import kernel_tables, tables
from bench.ablations import ABLATIONS
from bench.ladder import RUNGS
from bench.results import ResultsError, of_all_machines
from bench.text import Table
from common.marked import fill
from common.versions import VERSIONS

SECTIONS: dict[str, Callable[[dict], Table]] = {
    "table": tables.all_steps,
    "race": tables.race,
    "accuracy": tables.accuracy,
    "machine": tables.environment,
    "machines": tables.machines,
    "operators": tables.operators,
    "ceilings": tables.ceilings,
    "threads": tables.threads,
    "winograd": tables.winograd,
    "predicted": tables.predicted,
    "constants": tables.constants,
    "objects": tables.objects,
    "amounts": tables.amounts,
    "batches": tables.batches,
    "throughput": tables.throughput,
    "isas": tables.instruction_sets,
    "race_v9": lambda _: tables.race_with_tiles(of_all_machines()),
    "isas_v8": lambda _: tables.int8_instruction_sets(of_all_machines()),
    "ladder": kernel_tables.ladder,
    "ladder_everywhere": kernel_tables.ladder_everywhere,
    "tiles": kernel_tables.tiles,
    "chains": kernel_tables.chains,
    "cache_sizes": kernel_tables.cache_sizes,
    "cache_sets": kernel_tables.cache_sets,
    "cache_pages": kernel_tables.cache_pages,
    "cache_strides": kernel_tables.cache_strides,
} | {version.split("_")[0]: partial(tables.step, version=version) for version in VERSIONS}
SECTIONS |= {f"ablations_{version[:2]}": partial(tables.ablations, version=version) for version in ABLATIONS}
SECTIONS |= {f"rung_{name}": partial(kernel_tables.rung, name=name) for name in RUNGS}


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
