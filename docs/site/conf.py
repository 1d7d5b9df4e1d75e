"""Sphinx's settings: every article where it lies, seen from the repository's root. README.md says why it is so."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

project = "ResNet-50 in six steps"
html_title = project
root_doc = "README"
include_patterns = ["*.md", "**/*.md"]
exclude_patterns = [".*", "**/.*", "**/__pycache__", "*_out", "training/run"]
extensions = ["myst_parser"] + [
    f"docs.site.{name}" for name in ("navigation", "links", "formulas", "convolution", "steps", "measurements")
]

myst_enable_extensions = ["dollarmath"]
myst_dmath_double_inline = True
myst_fence_as_directive = ["math"]
myst_heading_anchors = 6  # the anchors that a code host gives to headings
html_math_renderer = "katex"
highlight_language = "none"  # a block that does not name its language
pygments_style, pygments_dark_style = "default", "github-dark"

html_theme = "furo"
html_static_path = ["static"]
templates_path = ["templates"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "index.html"}
html_show_copyright = html_show_sphinx = html_copy_source = html_use_index = False
html_sidebars = {
    "**": [
        *("sidebar/brand.html", "sidebar/search.html", "sidebar/scroll-start.html", "sidebar/pages.html"),
        *("sidebar/navigation.html", "sidebar/languages.html", "sidebar/scroll-end.html"),
    ]
}
gettext_compact = False  # a file of messages for each article
