"""Every code block of every article runs or is the source's, and every link leads somewhere.

`python`  occurs in a source file, or is run: the blocks of one article in order, in one process, from the repository's
          root. A block with a line `...` leaves that line to the reader; it must compile.
`text`    directly after a `python` or `sh` block: what that block prints. `…` stands for what varies.
`sh`      run from the root, but for what NOT_RUN lists; that, and commands elsewhere, must name what exists.
`c`       occurs in a C file of the repository, or in what versions 5 to 9 generate.
`diff`    its lines with - are in the previous version, those with + in this one, all others in both.

All of this happens in a copy of the repository whose weights are the tests' own.
"""

import doctest
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.anchors import anchors_plugin

from bench import results, sections
from common.marked import fill
from common.versions import ROOT, STEPS, VERSIONS, load_version
from docs import allocators
from docs.figures import layer_table

NOT_RUN = {
    r"make (?!diff)|pytest |\.venv/|pipx ": "installs packages, runs these tests, or takes minutes",
    r"python v1_loops/infer\.py": "minutes for one picture; test_infer.py runs it on a small one",
    r"python docs/allocators\.py|python -m bench (?!--help|table)": "takes a quiet machine, and minutes",
    r"python common/export_weights\.py (torchvision|checkpoint)|python common/export_weights\.py$": "needs a network",
    r".*(PICTURE|rose\.jpg|my\.pth|labels\.txt|photo\.jpg|tiny-imagenet-200|my_pictures)": "the reader's own files",
}
FILES = [path for path in sorted(ROOT.rglob("*")) if "/." not in f"/{path.relative_to(ROOT)}" and path.is_file()]
PAGES = {str(path.relative_to(ROOT)): path for path in FILES if path.suffix == ".md"}
ARTICLES = [name for name in PAGES if not re.match(r"primer/(\d_|README)", name)]
MARKDOWN = MarkdownIt("gfm-like", {"linkify": False}).use(anchors_plugin, max_level=6)

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


class Block(NamedTuple):
    place: str  # for messages
    language: str
    text: str
    shown: str | None  # what it is said to print


@cache
def tokens(name):
    return MARKDOWN.parse(PAGES[name].read_text("utf-8"))


@cache
def blocks(name):
    """Return an article's fenced blocks in order; a `text` block belongs to the one directly before it."""
    found, parsed = [], tokens(name)
    for token, after in zip(parsed, [*parsed[1:], None]):
        if token.type == "fence":
            follows = after is not None and (after.type, after.info) == ("fence", "text")
            place = f"{name}:{token.map[0] + 1}"
            found.append(Block(place, token.info, token.content, after.content if follows else None))
    return found


def of(language):
    """The blocks of that language, {article: [block, ...]}, as pytest's parameters: one for each article."""
    found = {name: [block for block in blocks(name) if block.language == language] for name in ARTICLES}
    return pytest.mark.parametrize(
        ("name", "own"), [pytest.param(*item, id=item[0]) for item in found.items() if item[1]]
    )


def inline(name, kind):
    """All parts of that kind in an article's text."""
    return [part for token in tokens(name) for part in token.children or () if part.type == kind]


@cache
def sources(suffix):
    return "\n".join(path.read_text("utf-8") for path in FILES if path.suffix == suffix)


def is_excerpt(text, source):
    """Whether the lines occur together in `source`, all moved by the same indentation or by none."""
    lines = textwrap.dedent(text).strip("\n").split("\n")
    pattern = "\n".join(rf"(?P=margin){re.escape(line.rstrip())}[ ]*" if line.strip() else "[ ]*" for line in lines)
    return re.search("^" + pattern.replace("(?P=margin)", "(?P<margin>[ ]*)", 1) + "$", source, re.M) is not None


def assert_prints(block, printed):
    """`…` in what is shown stands for anything."""
    got = "".join(f"{line.rstrip()}\n" for line in printed.rstrip().splitlines())
    same = doctest.OutputChecker().check_output((block.shown or "").replace("…", "..."), got, doctest.ELLIPSIS)
    if block.shown is not None and not same:
        pytest.fail(f"{block.place} shows\n{block.shown}but prints\n{printed}", pytrace=False)


@pytest.fixture(scope="module")
def tree(weights_file, tmp_path_factory):
    """A copy of the repository with synthetic weights."""

    def skipped(directory, names):
        found = shutil.ignore_patterns(".*", "__pycache__", "runs", "run")(directory, names)
        return found | set(names) - {"README.md", "demo"} if Path(directory) == ROOT / "weights" else found

    copy = tmp_path_factory.mktemp("articles") / "repository"
    shutil.copytree(ROOT, copy, ignore=skipped)
    (copy / "weights" / "resnet50.safetensors").symlink_to(weights_file)
    return copy


def run(command, tree, version=".", **options):
    """Run with this Python first on PATH, a cache of its own, and a version's modules at hand."""
    variables = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), "PYTHONUTF8": "1"}
    variables |= {"PYTHONPATH": str(tree / version), "RESNET50_CACHE": str(tree.parent / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tree, env=os.environ | variables, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(text):
    """The lines of a shell block without comments, continued lines joined."""
    lines = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


def assert_exists(command, place):
    """A command that is not run must name make targets, or scripts, modules or tests that there are."""
    first, *words = command.split()
    if first == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
        wanted = [word for word in words if "=" not in word and re.fullmatch("[a-z-]+", word)]
        assert wanted and set(wanted) <= set(targets), f"{place}: {command}: no such target"
    elif first in ("python", "pytest"):
        files = [word.split("::")[0] for word in words if re.fullmatch(r"[\w/.-]+(\.py|/)", word.split("::")[0])]
        files += [words[words.index("-m") + 1].replace(".", "/")] if "-m" in words else []
        for file in files or words[:1]:
            known = (ROOT / file).exists() or any(path.match(file) or path.match(f"{file}.py") for path in FILES)
            assert known or "-c" in words, f"{place}: {command}: no such file"


@pytest.mark.parametrize("name", ARTICLES)
def test_blocks_say_what_they_are_and_commands_exist(name):
    shown = sum(block.shown is not None and block.language in ("python", "sh") for block in blocks(name))
    assert shown == sum(block.language == "text" for block in blocks(name)), "a text block without what prints it"
    for block in blocks(name):
        assert block.language in ("", "python", "text", "sh", "c", "diff", "json"), block.place
        if block.language == "json":
            json.loads(block.text)
    illustrations = [line for block in blocks(name) if not block.language for line in commands(block.text)]
    for command in [*illustrations, *(part.content for part in inline(name, "code_inline"))]:
        if re.match(r"(make|pytest|python) [\w.-]", command):
            assert_exists(re.sub(r"\w+=(\"[^\"]*\"|\S*)|\[.*", "", command), name)


@of("python")
def test_python_blocks(name, own, tree):
    to_run = []
    for block in own:
        if re.search(r"^\.\.\.", block.text, re.M):
            compile(block.text, block.place, "exec")
        elif block.shown is not None or not is_excerpt(block.text, sources(".py")):
            to_run.append(block)
    version = PAGES[name].parent.name if name.startswith("v") else "v4_no_alloc"
    request = json.dumps([(block.place, block.text) for block in to_run])
    printed = run([sys.executable, "-c", DRIVER], tree, version, input=request)
    for block, text in zip(to_run, json.loads(printed)):
        assert_prints(block, text)


@of("sh")
def test_shell_blocks(name, own, tree):
    for block in own:
        left_out = [line for line in commands(block.text) if any(re.match(pattern, line) for pattern in NOT_RUN)]
        for command in left_out:
            assert_exists(command, block.place)
        script = "\n".join(line for line in commands(block.text) if line not in left_out)
        assert_prints(block, run(["bash", "-ec", script], tree))


@cache
def generated():
    """What versions 5 to 9 write for 224x224 pictures, for AVX-512 and for AVX2, and versions 8 and 9 for AMX."""
    names = ("avx512", "avx2", "amx")
    machines = [(v, v.compiler.ISAS.get(name)) for v in map(load_version, VERSIONS[4:]) for name in names]
    return "\n".join(v.codegen.generate(v.resnet50.Network(224, 1000, isa).steps, isa) for v, isa in machines if isa)


@of("c")
def test_c_blocks(name, own):
    for block in own:
        assert is_excerpt(block.text, sources(".c")) or is_excerpt(block.text, generated()), block.place


@of("diff")
def test_diff_blocks(name, own):
    (step,) = (step for step in STEPS if step.version == PAGES[name].parent.name)
    for block in own:
        for sign, version in (("-", step.after), ("+", step.version)):
            lines = {line for path in (ROOT / version).glob("*.py") for line in path.read_text("utf-8").splitlines()}
            missing = [line for line in block.text.splitlines() if line[:1] in (sign, " ") and line[1:] not in lines]
            assert not missing, f"{block.place}: not in {version}: {missing}"


@pytest.mark.parametrize("name", PAGES)
def test_relative_links_and_anchors(name):
    targets = [part.attrs["href"] for part in inline(name, "link_open")]
    for link in targets + [part.attrs["src"] for part in inline(name, "image")]:
        if not re.match(r"\w+:", link):
            path, _, anchor = link.partition("#")
            target = (PAGES[name].parent / path).resolve() if path else PAGES[name]
            assert target.exists(), link
            if anchor and target.suffix == ".md":
                assert anchor in {token.attrs.get("id") for token in tokens(str(target.relative_to(ROOT)))}, link


@pytest.mark.parametrize("name", [name for name in ARTICLES if "<!-- " in PAGES[name].read_text("utf-8")])
def test_generated_tables_are_what_the_committed_results_give(name, tmp_path):
    text = PAGES[name].read_text("utf-8")
    copy = tmp_path / "page.md"
    copy.write_text(text, encoding="utf-8")
    if "<!-- bench:" in text:
        sections.rewrite(copy, results.load(results.of_page(PAGES[name])))
    assert copy.read_text("utf-8") == text
    if "<!-- layers" in text:
        assert fill(text, "layers", layer_table.table()) == text
    if "<!-- allocators" in text:
        assert fill(text, "allocators", allocators.table(json.loads(allocators.RESULTS.read_text("utf-8")))) == text
    assert re.findall("<!-- (?!/)(.*?) -->", text) == re.findall("<!-- /(.*?) -->", text)


def exercises(name):
    """The numbers of an article's exercises."""
    _, _, rest = PAGES[name].read_text("utf-8").partition("\n## Exercises\n")
    return re.findall(r"^(\d+)\. ", re.split(r"^## |^<details>|^Next:|^\*\*Ref", rest, maxsplit=1, flags=re.M)[0], re.M)


@pytest.mark.parametrize("name", [name for name in PAGES if exercises(name)])
def test_every_exercise_has_a_solution(name):
    solutions = re.findall(r"^<summary>Solution (\d+)</summary>$", PAGES[name].read_text("utf-8"), re.M)
    if lesson := re.match(r"primer/(\d)_", name):  # all lessons' are in one file
        _, _, own = PAGES["primer/solutions.md"].read_text("utf-8").partition(f"\n## Lesson {lesson[1]}: ")
        solutions = re.findall(r"^\*\*(\d+)\. ", own.partition("\n## ")[0], re.M)
    assert solutions == exercises(name)


def test_the_map_leads_to_every_article():
    mapped = {(ROOT / "docs" / part.attrs["href"]).resolve() for part in inline("docs/README.md", "link_open")}
    wanted = {PAGES[name] for name in ARTICLES if re.fullmatch(r"docs/(?!README)[^/]*\.md", name)}
    assert len(wanted) > 18 and wanted | {ROOT / version / "README.md" for version in VERSIONS} <= mapped
