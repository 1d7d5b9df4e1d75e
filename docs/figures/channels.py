"""A convolution with three channels in and two out: one window, its products channel by channel, and both sums."""

import numpy as np

from common.plot_style import BLUE, FAINT, GREEN, ORANGE, PINK, RED, arrow, canvas, frame, grid, shade
from common.versions import load_version

# The picture of docs/00-fifteen-minutes.md, channel by channel.
PLANES = {
    "red": [[1, 1, 9, 9], [1, 2, 9, 8], [2, 1, 8, 9], [1, 1, 9, 9]],
    "green": [[1, 1, 5, 5], [1, 1, 5, 4], [2, 1, 4, 5], [1, 2, 5, 5]],
    "blue": [[1, 1, 0, 0], [2, 1, 0, 1], [1, 1, 1, 0], [1, 1, 0, 0]],
}
COLUMN = np.broadcast_to([-1, 0, 1], (3, 3))
KERNELS = {
    "edge": np.stack([COLUMN] * 3, axis=-1),
    "orange": np.broadcast_to([1, 0, -1], (3, 3, 3)),  # red, green, blue
}
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE, "edge": PINK, "orange": ORANGE}
LEFT = {"edge": 7.3, "orange": 13.1}  # of a kernel's planes
TOPS = (15.2, 10.4, 5.6)  # of the planes of red, green and blue


def channels():
    """Each kernel has a plane for each input channel; the three sums of a window together are one output number."""
    picture = np.stack(list(PLANES.values()), axis=-1)
    weight = [kernel.tolist() for kernel in KERNELS.values()]
    out = np.array(load_version("v1_loops").ops.conv2d(picture.tolist(), weight)).astype(int)
    figure, axes = canvas(24, 17.3)
    for (name, plane), top in zip(PLANES.items(), TOPS):
        colours = [[shade(COLOURS[name], 0.4 if r < 3 and c < 3 else 0.08) for c in range(4)] for r in range(4)]
        grid(axes, plane, 0.5, top, colours=colours)
        frame(axes, 0.5, top, 3, 3, COLOURS[name])
        axes.text(4.75, top - 1.5, name, va="center", color=COLOURS[name], weight="bold", size=9)
    for number, (name, kernel) in enumerate(KERNELS.items()):
        draw_kernel(axes, LEFT[name], name, kernel, picture[:3, :3])
        total = out[0, 0, number]
        left, top = 20.6, (12.6, 6.3)[number]
        colours = [[shade(COLOURS[name], 0.6 if r == c == 0 else 0.12) for c in range(2)] for r in range(2)]
        grid(axes, out[..., number], left, top, cell=1.3, colours=colours)
        frame(axes, left, top, 1.3, 1.3, COLOURS[name])
        axes.text(left + 1.3, top + 0.35, f"channel {number}: {name}", ha="center", size=9, color=COLOURS[name])
        parts = (picture[:3, :3] * kernel).sum(axis=(0, 1))
        terms = f"{parts[0]} + {parts[1]} − {-parts[2]} = {total}"
        axes.text(LEFT[name] + 1.5, 0.45, terms, ha="center", va="center", weight="bold", color=COLOURS[name])
    arrow(axes, (17.9, 8.4), (19.9, 8.4), color=FAINT)
    axes.text(0.5, 16.4, "picture: 4×4 pixels, 3 channels", size=9, color=FAINT)
    axes.text(0.5, 0.45, "the window's three sums, added:", size=9, va="center", color=FAINT)
    axes.text(21.9, 16.4, "output", ha="center", size=9, color=FAINT)
    return figure


def draw_kernel(axes, left, name, kernel, window):
    """The kernel's three planes below each other, and what each gives under the window."""
    axes.text(left + 1.5, 16.4, f"kernel “{name}”", ha="center", color=COLOURS[name], weight="bold")
    for channel, top in enumerate(TOPS):
        strength = np.abs(kernel[..., channel]) * 0.3
        colours = [[shade(COLOURS[name], value) for value in row] for row in strength]
        grid(axes, kernel[..., channel], left, top, colours=colours)
        frame(axes, left, top, 3, 3, COLOURS[name], linewidth=1.5)
        total = (window * kernel)[..., channel].sum()
        gives = f"→ {total}".replace("-", "−")
        axes.text(left + 3.25, top - 1.5, gives, va="center", color=COLOURS[name], weight="bold")
        if name == "edge":
            axes.text(left - 0.45, top - 1.5, "∗", ha="center", va="center", size=16)
