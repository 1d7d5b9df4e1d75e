"""Every code block of every article runs or is the source's, and every link leads somewhere.

`python`  occurs in a source file, or is run: the blocks of one article in order, in one process, from the repository's
          root. A block with a line `...` leaves that line to the reader; it must compile.
`text`    directly after a `python` or `sh` block: what that block prints. `…` stands for what varies.
`sh`      run from the repository's root, except for the lines that NOT_RUN lists; what those name must exist.
`c`       occurs in a C file of the repository, or in what versions 5 and 6 generate.
`diff`    its lines with - are in the previous version, those with + in this one, all others in both.
`json`    can be parsed.
No language: an illustration. A line of it that is a command must name what exists.

All of this happens in a copy of the repository whose weights are the tests' own. The primer has tests of its own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

from bench import readme, results
from bench.commands import REFERENCE
from common.versions import ROOT, VERSIONS, load_version

# Commands that a test does not run again, and why. Each must still name a target, a script or a test that exists.
NOT_RUN = {
    r"make (?!diff)": "installs packages, runs these tests, or takes minutes",
    r"pytest ": "these tests",
    r"python v1_loops/infer\.py": "minutes for one picture; test_infer.py runs it on a small one",
    r"python -m bench (?!--help|table)": "takes a quiet machine, and minutes",
    r"python common/export_weights\.py (torchvision|checkpoint)|python common/export_weights\.py$": "needs a network",
    r".*(PICTURE|rose\.jpg|my\.pth|labels\.txt|photo\.jpg)": "names a file of the reader's own",
    r".*(tiny-imagenet-200|my_pictures)": "names pictures of the reader's own",
}
PAGES = sorted(page for page in ROOT.rglob("*.md") if "/." not in f"/{page.relative_to(ROOT)}")
ARTICLES = [page for page in PAGES if "primer" not in page.parts]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
ARTICLE_IDS = [str(page.relative_to(ROOT)) for page in ARTICLES]
MARKED = [name for name, page in zip(ARTICLE_IDS, ARTICLES) if "<!-- bench:" in page.read_text("utf-8")]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)

# Runs an article's blocks, read as JSON, and prints as JSON what each printed.
DRIVER = """
import contextlib, io, json, sys
namespace, printed = {"__name__": "__main__"}, []
for name, block in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(block, name, "exec"), namespace)
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


class Block:
    """A fenced block: its language, its text, its place for messages, and what it is said to print, or None."""

    def __init__(self, page, match, shown):
        self.language, self.text, self.shown = match[1], match[2], shown
        line = page.read_text("utf-8").count("\n", 0, match.start()) + 1
        self.place = f"{page.relative_to(ROOT)}:{line}"


def blocks(page):
    """Return an article's blocks in order; a `text` block belongs to the one directly before it."""
    text, found = page.read_text("utf-8"), []
    matches = list(FENCED.finditer(text))
    for match, after in zip(matches, [*matches[1:], None]):
        follows = after and after[1] == "text" and not text[match.end() : after.start()].strip()
        found.append(Block(page, match, after[2] if follows else None))
    return found


def of_language(page, language):
    return [block for block in blocks(page) if block.language == language]


@cache
def sources(suffix):
    """The text of all files of the repository with that suffix."""
    files = [path for path in ROOT.rglob(f"*{suffix}") if "/." not in f"/{path.relative_to(ROOT)}"]
    return "\n".join(path.read_text("utf-8") for path in sorted(files))


def having(language):
    """The articles that have blocks of that language, as pytest's parameters."""
    return [pytest.param(page, id=name) for page, name in zip(ARTICLES, ARTICLE_IDS) if of_language(page, language)]


def dedented(text):
    """Lines without the indentation that they have in common, nor spaces at their ends."""
    return "\n".join(line.rstrip() for line in textwrap.dedent(text).strip("\n").split("\n"))


def is_excerpt(text, source):
    """Whether the lines occur together in `source`, all moved by the same indentation or by none."""
    wanted = dedented(text)
    first = re.escape(wanted.split("\n")[0])
    for match in re.finditer(rf"^([ \t]*){first}[ \t]*$", source, re.M):
        lines = source[match.start() :].split("\n")[: wanted.count("\n") + 1]
        if dedented("\n".join(lines)) == wanted:
            return True
    return False


def matches(shown, printed):
    """Whether `printed` is what is shown. `…` is any text in a line; a line of `…` alone is any number of lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else re.escape(line.rstrip()).replace("…", ".*") + r"[ \t]*\n"
        for line in shown.splitlines()
    )
    return re.fullmatch(pattern, printed.rstrip("\n") + "\n" if printed.strip() else "") is not None


def assert_prints(block, printed):
    if block.shown is not None and not matches(block.shown, printed):
        pytest.fail(f"{block.place} shows\n{block.shown}but prints\n{printed}", pytrace=False)


@pytest.fixture(scope="module")
def tree(weights_dir, tmp_path_factory):
    """A copy of the repository with synthetic weights."""

    def skipped(directory, names):
        found = shutil.ignore_patterns(".*", "__pycache__", "runs", "run")(directory, names)
        return found | set(names) - {"README.md", "demo"} if Path(directory) == ROOT / "weights" else found

    copy = tmp_path_factory.mktemp("articles") / "repository"
    shutil.copytree(ROOT, copy, ignore=skipped)
    (copy / "weights" / "resnet50").symlink_to(weights_dir)
    return copy


def environment(tree, version):
    """Variables for a block: this Python first, no BLAS threads, a cache of its own, a version's modules at hand."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {
        "PATH": path, "PYTHONPATH": str(tree / version), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1",
        "RESNET50_CACHE": str(tree.parent / "cache"),
    }  # fmt: skip


def version_of(page):
    """The version whose modules an article's blocks import: its own, else version 4."""
    return page.parent.name if page.parent.name.startswith("v") else "v4_no_alloc"


def commands(block):
    """The lines of a shell block without comments, continued lines joined."""
    joined = block.text.replace("\\\n", " ")
    lines = (re.sub(r"\s+#.*", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def assert_exists(command, place):
    """A command that is not run must name a make target, a script or a test file that there is."""
    first, *words = command.split()
    if first == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
        wanted = [word for word in words if "=" not in word]
        assert wanted and set(wanted) <= set(targets), f"{place}: {command}: no such target"
    elif first in ("python", "pytest", "cd"):
        files = [word for word in words if re.fullmatch(r"[\w/.-]+(\.py|/)", word.split("::")[0])]
        assert all((ROOT / file.split("::")[0]).exists() for file in files), f"{place}: {command}: no such file"
        assert files or "-m" in words or "-c" in words or first == "cd", f"{place}: {command}"


def test_there_are_articles():
    numbers = {page.name[:2] for page in ARTICLES if re.match(r"\d\d-", page.name)}
    assert {f"{number:02}" for number in range(1, 19)} == numbers
    assert {"README.md", "docs/README.md", "docs/glossary.md", "v1_loops/README.md"} <= set(ARTICLE_IDS)


@pytest.mark.parametrize("page", ARTICLES, ids=ARTICLE_IDS)
def test_blocks_say_what_they_are(page):
    assert page.read_text("utf-8").count("\n```") % 2 == 0
    before = None
    for block in blocks(page):
        assert block.language in ("", "python", "text", "sh", "c", "diff", "json"), f"{block.place}: {block.language}"
        if block.language == "text":
            assert before and before.shown is not None and before.language in ("python", "sh"), block.place
        before = block


@pytest.mark.parametrize("page", having("python"))
def test_python_blocks(page, tree):
    to_run = []
    for block in of_language(page, "python"):
        if re.search(r"^\.\.\.", block.text, re.M):
            compile(block.text, block.place, "exec")
        elif block.shown is not None or not is_excerpt(block.text, sources(".py")):
            to_run.append(block)
    request = json.dumps([(block.place, block.text) for block in to_run])
    result = subprocess.run([sys.executable, "-c", DRIVER], input=request, capture_output=True, text=True, cwd=tree,
                            env=environment(tree, version_of(page)))  # fmt: skip
    assert result.returncode == 0, result.stderr
    for block, printed in zip(to_run, json.loads(result.stdout)):
        assert_prints(block, printed)


@pytest.mark.parametrize("page", having("sh"))
def test_shell_blocks(page, tree):
    for block in of_language(page, "sh"):
        to_run = []
        for command in commands(block):
            if any(re.match(pattern, command) for pattern in NOT_RUN):
                assert_exists(command, block.place)
            else:
                to_run.append(command)
        script = "\n".join(["set -e", *to_run])
        result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tree,
                                env=environment(tree, "."))  # fmt: skip
        assert result.returncode == 0, f"{block.place}: {result.stderr}"
        assert_prints(block, result.stdout)


@cache
def generated():
    """What versions 5 and 6 write for 224x224 pictures, for AVX-512 and for AVX2."""
    programs = []
    for version in map(load_version, VERSIONS[4:]):
        for isa in (version.compiler.ISAS[name] for name in ("avx512", "avx2")):
            programs.append(version.codegen.generate(version.resnet50.Network(224, 1000, isa).steps, isa))
    return "\n".join(programs)


@pytest.mark.parametrize("page", having("c"))
def test_c_blocks(page):
    for block in of_language(page, "c"):
        assert is_excerpt(block.text, sources(".c")) or is_excerpt(block.text, generated()), block.place


@pytest.mark.parametrize("page", having("diff"))
def test_diff_blocks(page):
    after = VERSIONS.index(page.parent.name)
    for block in of_language(page, "diff"):
        for sign, version in (("-", VERSIONS[after - 1]), ("+", VERSIONS[after])):
            lines = {line for path in (ROOT / version).glob("*.py") for line in path.read_text("utf-8").splitlines()}
            assert sign in block.text
            for line in block.text.splitlines():
                assert line[:1] not in (sign, " ") or line[1:] in lines, f"{block.place}: not in {version}: {line}"


@pytest.mark.parametrize("page", ARTICLES, ids=ARTICLE_IDS)
def test_json_blocks_and_other_commands(page):
    for block in of_language(page, "json"):
        json.loads(block.text)
    for block in of_language(page, ""):
        for command in commands(block):
            if re.match(r"(make|pytest|python) ", command):
                assert_exists(command, block.place)
    outside = FENCED.sub("", page.read_text("utf-8"))
    for command in re.findall(r"`((?:make|pytest) [^`\n]+)`", outside):
        assert_exists(re.sub(r"[\w]+=(?:\"[^\"]*\"|…|\S*)", "", command), page.name)


def slugs(page):
    """The anchors that GitHub gives a page's headings."""
    found = []
    for heading in re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text("utf-8")), re.M):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        found.append(slug + f"-{found.count(slug)}" * (slug in found))
    return found


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_relative_links_and_anchors(page):
    for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", FENCED.sub("", page.read_text("utf-8"))):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.relative_to(ROOT)}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in slugs(target), f"{page.relative_to(ROOT)}: {link}"


@pytest.mark.parametrize("page", ARTICLES, ids=ARTICLE_IDS)
def test_results_stand_between_known_markers(page):
    text = page.read_text("utf-8")
    opened, closed = re.findall(r"<!-- bench:(\w+) -->", text), re.findall(r"<!-- /bench:(\w+) -->", text)
    assert opened == closed and len(set(opened)) == len(opened) and set(opened) <= set(readme.SECTIONS)


@pytest.mark.parametrize("name", MARKED)
def test_results_are_the_committed_ones(name, tmp_path):
    """`python -m bench table` would change nothing. As long as there is no results file, no numbers are shown."""
    text = (ROOT / name).read_text("utf-8")
    if REFERENCE.is_file():
        copy = tmp_path / "page.md"
        copy.write_text(text, encoding="utf-8")
        readme.rewrite(copy, results.load(REFERENCE))
        assert copy.read_text("utf-8") == text
    else:
        assert not "".join(re.findall(r"<!-- bench:\w+ -->(.*?)<!-- /bench:\w+ -->", text, re.S)).strip()


def test_the_map_leads_to_every_article():
    text = (ROOT / "docs" / "README.md").read_text("utf-8")
    for page in ARTICLES:
        if re.match(r"\d\d-", page.name) or page.parent.name.startswith("v") or page.name == "glossary.md":
            assert f"({os.path.relpath(page, ROOT / 'docs')})" in text, page


class TestTheseTests:
    """A changed excerpt, another output and a missing target must be noticed."""

    def test_excerpts(self):
        source = "def f(x):\n    y = x + 1\n    return y\n"
        assert is_excerpt("y = x + 1\nreturn y\n", source) and is_excerpt("    return y\n", source)
        assert not is_excerpt("y = x + 2\nreturn y\n", source) and not is_excerpt("y = x + 1\nreturn x\n", source)
        assert not is_excerpt("y = x", source)

    @pytest.mark.parametrize(
        ("shown", "printed", "same"),
        [("a 1\n", "a 1\n", True), ("a 1\n", "a 2\n", False), ("a …\n", "a 2\n", True), ("a …\n", "b 2\n", False),
         ("a\n…\nb\n", "a\n1\n2\nb\n", True), ("a\n…\nb\n", "a\n1\n2\n", False), ("a\n", "a\nb\n", False),
         ("a\n", "", False)],
    )  # fmt: skip
    def test_outputs(self, shown, printed, same):
        assert matches(shown, printed) is same

    @pytest.mark.parametrize("command", ["make tea", "python v4_no_alloc/infr.py", "pytest tests/test_nothing.py"])
    def test_commands(self, command):
        with pytest.raises(AssertionError):
            assert_exists(command, "here")
        assert_exists("make diff A=v3 B=v4", "here")

    def test_anchors(self, tmp_path):
        page = tmp_path / "page.md"
        page.write_text("# What's new: `conv2d`, 3×3\n## Exercises\n## Exercises\n```\n# no heading\n```\n")
        assert slugs(page) == ["whats-new-conv2d-33", "exercises", "exercises-1"]
