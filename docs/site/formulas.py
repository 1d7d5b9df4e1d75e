"""Formulas as HTML, set by KaTeX while the site is built."""

import json
import os
import subprocess
from functools import cache

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from docs.site import NODE, SITE

logger = logging.getLogger(__name__)


@cache
def katex() -> subprocess.Popen:
    """One process sets all formulas; it ends when its input does, with this program."""
    variables = os.environ | {"NODE_PATH": str(NODE / "node_modules")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen(["node", str(SITE / "formulas.js")], env=variables, **pipes)


@cache
def html(tex: str, display: bool) -> str:
    """The formula as HTML. Raises ValueError with KaTeX's message where it is none."""
    process = katex()
    process.stdin.write(json.dumps({"tex": tex, "display": display}) + "\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["html"]


def visitor(display: bool):
    def visit(self, node: nodes.Element) -> None:
        try:
            text = html(node.astext(), display)
            self.body.append(f'<div class="formula">{text}</div>' if display else text)
        except ValueError as error:
            logger.warning("%s", error, location=node)
        raise nodes.SkipNode

    return visit


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer("katex", (visitor(False), None), (visitor(True), None))
    return {"parallel_read_safe": True}
