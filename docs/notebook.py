"""Make a notebook of the first article, from its text: `python -m docs.notebook`, from the repository's root.

The notebook is for readers who have nothing else of the repository: pictures are in it, links become words, and what
the code prints is left to the code.
"""

import base64
import re
from pathlib import Path

import jupytext
import nbformat

from common.versions import ROOT

ARTICLE = ROOT / "docs" / "00-fifteen-minutes.md"
NOTEBOOK = ARTICLE.with_suffix(".ipynb")
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def build(article: Path = ARTICLE) -> str:
    """Return the notebook of an article, JSON text; the same text for the same article."""
    text = article.read_text("utf-8")
    text = re.sub(r"^```text\n.*?^```\n", "", text, flags=re.M | re.S)  # the notebook prints it
    text = re.sub(r"^<details>\n<summary>(.*?)</summary>", r"**\1**", text, flags=re.M)  # no fold spans several cells
    text = text.replace("</details>\n", "")
    notebook = jupytext.reads(text, "md")
    notebook.metadata = {"kernelspec": KERNEL}
    notebook.cells = [cell for cell in notebook.cells if cell.source]
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "markdown":
            embed_pictures(cell, article.parent)
            cell.source = re.sub(r"(?<!!)\[([^]]*)\]\((?!\w+:)[^)]*\)", r"\1", cell.source)
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def embed_pictures(cell: nbformat.NotebookNode, directory: Path) -> None:
    """Put the PNG files that a cell shows into the cell."""

    def embed(match):
        picture = directory / match[2]
        content = base64.b64encode(picture.read_bytes()).decode()
        cell.setdefault("attachments", {})[picture.name] = {"image/png": content}
        return f"{match[1]}(attachment:{picture.name})"

    cell.source = re.sub(r"(!\[[^]]*\])\(([^)]*\.png)\)", embed, cell.source)


if __name__ == "__main__":
    NOTEBOOK.write_text(build(), encoding="utf-8")
    print(NOTEBOOK)
