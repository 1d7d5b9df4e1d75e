"""The front page: a convolution of a small picture, its sums by version 1's loops."""

from sphinx.application import Sphinx

from common.versions import load_version

# [channel][row][column]; the first four columns are the picture of docs/00-fifteen-minutes.md.
PLANES = {
    "red": [[1, 1, 9, 9, 8, 1, 1, 2], [1, 2, 9, 8, 9, 2, 1, 1], [2, 1, 8, 9, 9, 1, 2, 1], [1, 1, 9, 9, 8, 1, 1, 1]],
    "green": [[1, 1, 5, 5, 4, 1, 2, 1], [1, 1, 5, 4, 5, 1, 1, 1], [2, 1, 4, 5, 5, 2, 1, 1], [1, 2, 5, 5, 4, 1, 1, 2]],
    "blue": [[1, 1, 0, 0, 1, 1, 1, 2], [2, 1, 0, 1, 0, 1, 2, 1], [1, 1, 1, 0, 0, 1, 1, 1], [1, 1, 0, 0, 1, 2, 1, 1]],
}
# {name: [row][column][channel]}, the first two the article's.
KERNELS = {
    "edge": [[[factor] * 3 for factor in (-1, 0, 1)]] * 3,
    "orange": [[[1, 0, -1]] * 3] * 3,
    "mean": [[[1, 1, 1]] * 3] * 3,
    "line": [[[factor] * 3 for factor in (-1, 2, -1)]] * 3,
}


def context() -> dict:
    """What templates/index.html shows: planes, kernels, and the sums [row][column][kernel]."""
    picture = [[list(pixel) for pixel in zip(*rows)] for rows in zip(*PLANES.values())]
    kernels = list(KERNELS.values())
    sums = load_version("v1_loops").ops.conv2d(picture, kernels)
    sums = [[[int(value) for value in pixel] for pixel in row] for row in sums]
    data = {"picture": picture, "kernels": kernels, "sums": sums}
    return {"planes": PLANES, "kernels": KERNELS, "sums": sums, "data": data, "title": "A convolution, step by step"}


def front_page(app: Sphinx, pagename: str, templatename: str, page: dict, doctree) -> None:
    if pagename == "index":
        page |= context()


def setup(app: Sphinx) -> dict:
    app.connect("html-page-context", front_page)
    return {"parallel_read_safe": True}
