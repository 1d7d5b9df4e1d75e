"""The notebook is the first article's text, and runs where nothing else of the repository is."""

import re

import nbclient
import nbformat
import pytest

from common.versions import ROOT
from docs import notebook
from docs.figures import channels
from tests.test_articles import Block, assert_prints, blocks

ARTICLE = str(notebook.ARTICLE.relative_to(ROOT))


def test_the_committed_notebook_is_made_from_the_article():
    assert notebook.NOTEBOOK.read_text("utf-8") == notebook.build(), "run `make notebook`"


def test_it_runs_alone_and_prints_what_the_article_shows(tmp_path, monkeypatch):
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    made = nbformat.reads(notebook.build(), 4)
    nbclient.NotebookClient(made, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in made.cells if cell.cell_type == "code"]
    own = [block for block in blocks(ARTICLE) if block.language == "python"]
    assert [cell.source for cell in cells] == [block.text.rstrip("\n") for block in own] and len(own) > 8
    for cell, block in zip(cells, own):
        assert_prints(block, "".join(output["text"] for output in cell.outputs))


def test_it_needs_nothing_beside_it():
    made = nbformat.reads(notebook.build(), 4)
    text = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    assert "```" not in text and "<" not in re.sub(r"<https://.*?>|<=", "", text)
    shown = set(re.findall(r"\]\(attachment:(.*?)\)", text))
    assert shown == {name for cell in made.cells for name in cell.get("attachments", ())} == {"channels.png"}
    assert not re.search(r"\]\((?!attachment:|https:)", text)


def test_a_printed_difference_is_noticed():
    with pytest.raises(pytest.fail.Exception):
        assert_prints(Block("", "python", "", "29 …\n"), "28 ms\n")


def test_the_figure_shows_the_articles_picture():
    text = notebook.ARTICLE.read_text("utf-8")
    assert all(f"{name} = {plane}\n" in text for name, plane in channels.PLANES.items())


def test_binder_installs_what_the_notebook_needs():
    directory = ROOT / ".binder"
    file = directory / (directory / "requirements.txt").read_text().removeprefix("-r ").strip()
    assert "numpy" in file.read_text().split()
