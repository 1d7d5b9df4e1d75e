"""A version's article beside the diff of its step, and the diffs of any two versions."""

import ast
import difflib
import json
import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from sphinx.application import Sphinx

from bench.ladder import RUNGS, RUNGS_AT
from common.versions import BEFORE, NOT_COUNTED, STEPS, VERSIONS, changed_lines, files
from docs.site import NODE

# Where what the pages load comes from: npm packages, {directory of _static/vendor: what of the package goes there}.
VENDOR = {
    "katex": ("katex/dist", ("katex.min.css", "fonts/*.woff2")),
    "diff2html": ("diff2html/bundles", ("css/diff2html.min.css", "js/diff2html-ui-slim.min.js")),
    "plotly": ("plotly.js-basic-dist-min", ("plotly-basic.min.js",)),
}


def functions(lines: list[str]) -> dict[str, list[int]]:
    """{function or class of a Python file: its first and last line}."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    found = [node for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, kinds)]
    return {node.name: [node.lineno, node.end_lineno] for node in reversed(found)}


def changed_functions(old: list[str], new: list[str]) -> dict[str, list[int]]:
    """Those of `functions(new)` that are not in `old` as they are."""
    before = {name: old[first - 1 : last] for name, (first, last) in functions(old).items()}
    return {
        name: [first, last]
        for name, (first, last) in functions(new).items()
        if before.get(name) != new[first - 1 : last]
    }


def difference(before: dict[str, list[str]], after: dict[str, list[str]]) -> dict:
    """The diff of two directories, {name: lines} each, without their articles: what static/steps.js draws."""
    diff, changed, unchanged, places = [], [], [], {}
    for name in sorted((before.keys() | after.keys()) - {"README.md"}):
        old, new = before.get(name), after.get(name)
        if old == new:
            unchanged.append(name)
            continue
        labels = ["/dev/null" if old is None else f"a/{name}", "/dev/null" if new is None else f"b/{name}"]
        kind = ["new file mode 100644"] * (old is None) + ["deleted file mode 100644"] * (new is None)
        diff += [f"diff --git a/{name} b/{name}", *kind]
        diff += difflib.unified_diff(old or [], new or [], *labels, lineterm="")
        changed.append([name, changed_lines(old or [], new or []), name not in NOT_COUNTED])
        if name.endswith(".py"):
            places[name] = changed_functions(old or [], new or [])
    count = sum(lines for _, lines, counted in changed if counted)
    text = "\n".join(diff) + "\n"
    return {"diff": text, "files": changed, "count": count, "unchanged": unchanged, "functions": places}


def rungs() -> dict[str, dict[str, list[str]]]:
    """{rung: its one file}: the C files of the ladder, each some lines away from the one before it."""
    sources = dict.fromkeys(rung.source for rung in RUNGS.values() if not rung.beside)
    found = {name: RUNGS_AT / f"{name}.c" for name in sources}
    return {name: {"kernel.c": path.read_text("utf-8").splitlines()} for name, path in found.items() if path.is_file()}


def beside_its_diff(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> str | None:
    """A step's article gets the template that has the diff; the ladder's article that of its first two rungs."""
    version = pagename.removesuffix("/README")
    if version in BEFORE:
        context |= {"versions": VERSIONS, "before": BEFORE[version], "after": version}
        return "step.html"
    if pagename == "docs/ladder" and (names := list(rungs())):
        context |= {"versions": names, "before": names[0], "after": names[1]}
        return "step.html"
    return None


def any_two(app: Sphinx) -> Iterator[tuple[str, dict, str]]:
    first = {"before": STEPS[0].after, "after": STEPS[0].version}
    yield "compare", first | {"title": "Any two versions", "versions": VERSIONS}, "compare.html"


def write_files(app: Sphinx, exception: Exception | None) -> None:
    """Write the diffs, from the earlier version to the later one, and copy what comes from npm packages."""
    if exception or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    (static / "diffs").mkdir(exist_ok=True)
    for series in ({version: files(version) for version in VERSIONS}, rungs()):
        for before, after in combinations(series, 2):
            text = json.dumps(difference(series[before], series[after]))
            (static / "diffs" / f"{before}-{after}.json").write_text(text, encoding="utf-8")
    for name, (package, patterns) in VENDOR.items():
        root = NODE / "node_modules" / package
        for path in (path for pattern in patterns for path in root.glob(pattern)):
            target = static / "vendor" / name / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def setup(app: Sphinx) -> dict:
    app.connect("html-page-context", beside_its_diff)
    app.connect("html-collect-pages", any_two)
    app.connect("build-finished", write_files)
    return {"parallel_read_safe": True}
