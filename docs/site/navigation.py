"""The order of the pages: that of the map, docs/README.md, whatever articles it links to."""

from pathlib import Path

from markdown_it import MarkdownIt
from sphinx.application import Sphinx

from docs.site import ROOT

MARKDOWN = MarkdownIt("gfm-like", {"linkify": False})
MAP = ROOT / "docs" / "README.md"


def linked(page: Path, tokens: list) -> list[Path]:
    """The Markdown files that the tokens of a page link to, in order."""
    parts = (part for token in tokens for part in token.children or () if part.type == "link_open")
    paths = (part.attrs["href"].partition("#")[0] for part in parts)
    return [(page.parent / path).resolve() for path in paths if path.endswith(".md") and ":" not in path]


def sections() -> dict[str, list[Path]]:
    """{heading of the map: its articles}, from the first columns of its tables.

    What its sections link to outside of tables comes first, lessons follow the page that leads to them, all other pages
    are last.
    """
    start, mapped, heading, column = [ROOT / "README.md", MAP], {}, "", None
    tokens = MARKDOWN.parse(MAP.read_text("utf-8"))
    for previous, token in zip([None, *tokens], tokens):
        if token.type == "inline" and previous.type == "heading_open":
            heading = token.content if previous.tag == "h2" else heading
        elif token.type == "tr_open":
            column = 0
        elif token.type == "td_close":
            column += 1
        elif token.type == "table_close":
            column = None
        elif token.type == "inline" and heading and column in (None, 0):
            (start if column is None else mapped.setdefault(heading, [])).extend(linked(MAP, [token]))
    first = {path for paths in mapped.values() for path in paths}
    groups = {"Start here": [path for path in start if path not in first]} | mapped
    for paths in groups.values():
        for page in [path for path in paths if path.parent.name == "primer"]:
            lessons = linked(page, MARKDOWN.parse(page.read_text("utf-8")))
            place = paths.index(page) + 1
            paths[place:place] = [path for path in lessons if path.is_relative_to(page.parent)]
    groups["The project"] = articles()
    seen: set[Path] = set()
    return {name: [p for p in paths if not (p in seen or seen.add(p))] for name, paths in groups.items()}


def articles() -> list[Path]:
    """Every Markdown file of the repository that is a page of the site."""
    visible = (path for path in sorted(ROOT.rglob("*.md")) if "/." not in f"/{path.relative_to(ROOT)}")
    return [path for path in visible if not path.relative_to(ROOT).parts[0].endswith("_out")]


def add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append the table of contents, which only the sidebar shows, to the root page as Sphinx reads it."""
    if docname == app.config.root_doc:
        for name, paths in sections().items():
            pages = [f"/{path.relative_to(ROOT).with_suffix('')}" for path in paths if path != ROOT / "README.md"]
            source[0] += "\n".join(["\n\n```{toctree}", ":hidden:", f":caption: {name}", "", *pages, "```\n"])


def add_languages(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """{language: this page's address in it}, for the switch. English lies at the root, others in a directory each."""
    languages = app.config.site_languages
    root = "../" * (pagename.count("/") + (app.config.language != "en"))
    pages = {code: f"{root}{'' if code == 'en' else code + '/'}{pagename}.html" for code in languages}
    context["languages"] = pages if len(pages) > 1 else {}


def setup(app: Sphinx) -> dict:
    app.add_config_value("site_languages", ["en"], "html")
    app.connect("source-read", add_contents)
    app.connect("html-page-context", add_languages)
    return {"parallel_read_safe": True}
