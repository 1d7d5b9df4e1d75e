"""Links from articles to source files and directories: each becomes a page of the site, with its code in colours."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from docutils import nodes
from pygments.lexers import find_lexer_class_for_filename
from sphinx import addnodes
from sphinx.application import Sphinx

from docs.site import ROOT


def is_text(path: Path) -> bool:
    """Whether a page can show the file; a notebook is something to download, as pictures are."""
    if path.suffix == ".ipynb" or path.stat().st_size >= 500_000:
        return False
    try:
        path.read_text("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def page_of(path: Path) -> str:
    """The page that shows a source file or a directory; a directory with a README.md is shown by that."""
    if (path / "README.md").is_file():
        return str((path / "README").relative_to(ROOT))
    return f"source/{path.relative_to(ROOT)}"


def point_to_pages(app: Sphinx, doctree: nodes.document) -> None:
    """MyST makes a download of a link to a file, and knows no directories."""
    docname = app.env.current_document.docname
    here = (ROOT / docname).parent
    shown = app.env.site_sources[docname] = set()
    for node in list(
        doctree.findall(lambda node: isinstance(node, addnodes.download_reference | addnodes.pending_xref))
    ):
        target = (here / node["reftarget"]).resolve()
        if node.get("reftype") != "myst" or node.get("refdomain") or not target.is_relative_to(ROOT):
            continue
        if target.is_dir() or (target.is_file() and is_text(target)):
            page = page_of(target)
            if page.startswith("source/"):
                shown.add(str(target.relative_to(ROOT)))
            uri = app.builder.get_relative_uri(docname, page) if app.builder.format == "html" else ""
            node.replace_self(nodes.reference("", "", *node.children, refuri=uri, internal=True))


def forget(app: Sphinx, env, docname: str) -> None:
    env.site_sources.pop(docname, None)


def prepare(app: Sphinx) -> None:
    app.env.site_sources = getattr(app.env, "site_sources", {})


def listing(app: Sphinx, directory: Path, page: str) -> str:
    """A directory's files as links to their pages, and the files."""
    items = []
    for path in sorted(directory.iterdir()):
        if path.name.startswith((".", "__pycache__")) or (path.is_dir() and not (path / "README.md").exists()):
            continue
        if path.is_dir() or is_text(path):
            shown = path.relative_to(ROOT).with_suffix("") if path.suffix == ".md" else page_of(path)
            uri = app.builder.get_relative_uri(page, str(shown))
            items.append(f'<li><a href="{uri}"><code>{escape(path.name)}</code></a></li>')
    return f"<ul>{''.join(items)}</ul>"


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict, str]]:
    """(page name, what its template needs, the template) for each file that an article links to."""
    wanted = {name for names in app.env.site_sources.values() for name in names}
    for name in [name for name in wanted if (ROOT / name).is_dir()]:
        wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / name).iterdir() if path.is_file() and is_text(path)}
    wanted |= {str(path.relative_to(ROOT)) for path in ROOT.glob("v[0-9]*/*.*") if path.suffix in (".py", ".c", ".h")}
    for name in sorted(name for name in wanted if not name.endswith(".md") and not Path(name).name.startswith(".")):
        path, page = ROOT / name, f"source/{name}"
        if path.is_dir():
            body = listing(app, path, page)
        else:
            lexer = find_lexer_class_for_filename(path.name)
            language = lexer.aliases[0] if lexer else "none"
            body = app.builder.highlighter.highlight_block(path.read_text("utf-8"), language, linenos="inline")
        title = f"<h1><code>{escape(name)}</code></h1>"
        yield page, {"title": name, "body": title + body, "is_source": True}, "page.html"


def setup(app: Sphinx) -> dict:
    app.connect("builder-inited", prepare)
    app.connect("env-purge-doc", forget)
    app.connect("doctree-read", point_to_pages)
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": False}
