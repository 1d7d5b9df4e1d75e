"""The site: Sphinx's settings, what they need beyond Sphinx, and the pages' scripts. See README.md."""

from pathlib import Path

SITE = Path(__file__).resolve().parent
ROOT = SITE.parents[1]
BUILD = SITE / ".build"  # hidden, so that nothing that reads the repository's files reads it
NODE = BUILD / "node"
