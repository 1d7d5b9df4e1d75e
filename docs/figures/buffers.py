"""Version 4's buffer plan over time."""

import matplotlib.pyplot as plt
from matplotlib.patches import Patch, Rectangle

from common.plot_style import BLUE, FAINT, GREEN, INK, ORANGE, SKY, WIDTH, shade
from common.versions import load_version

MIB = 2**20
KINDS = {"activation": BLUE, "input, padded": ORANGE, "im2col columns": SKY, "product, transposed": GREEN}


def buffer_plan(weights_dir):
    """Every buffer of version 4 as a rectangle: the steps during which it is live, and the bytes it lies in."""
    model = recorded_model(weights_dir)
    figure, axes = plt.subplots(figsize=(WIDTH, 4.3))
    for buffer in model.plan.buffers:
        start, end = model.plan.taken[buffer], model.plan.released.get(buffer, len(model.steps))
        kind = next((kind for kind in KINDS if kind.split()[-1] in buffer.name), "activation")
        corner, height = (start, 4 * buffer.offset / MIB), 4 * buffer.size / MIB
        axes.add_patch(
            Rectangle(
                corner,
                max(end - start, 0.8),
                height,
                facecolor=shade(KINDS[kind], 0.65),
                edgecolor=INK,
                linewidth=0.4,
            )
        )
    starts = {name: done for done, (name, _) in model.probes.items()}
    ends = [0, *(starts[name] for name in ("stem", "layer1", "layer2", "layer3", "layer4"))]
    for name, left, right in zip(("stem", "layer1", "layer2", "layer3", "layer4"), ends, ends[1:]):
        axes.axvline(right, color=FAINT, linewidth=0.8, linestyle="--")
        axes.text(
            (left + right) / 2, 4 * model.plan.size / MIB * 1.02, name, ha="center", va="bottom", size=9
        )
    unshared = sum(4 * buffer.size for buffer in model.plan.buffers) / MIB
    axes.set_xlim(0, len(model.steps))
    axes.set_ylim(0, 4 * model.plan.size / MIB)
    axes.set_xlabel("step of the plan")
    axes.set_ylabel("place in the block, MiB")
    axes.legend(
        handles=[Patch(color=shade(c, 0.65), label=n) for n, c in KINDS.items()],
        framealpha=1,
        edgecolor="white",
    )
    count, size = len(model.plan.buffers), 4 * model.plan.size / MIB
    title = f"{count} buffers of {unshared:.1f} MiB together, in a block of {size:.1f} MiB"
    axes.set_title(title, loc="left", fontsize=10, pad=20)
    figure.tight_layout()
    return figure


def recorded_model(weights_dir):
    """Return version 4's network, its plan with `taken` and `released`: {buffer: number of steps noted before}."""
    version = load_version("v4_no_alloc")

    class RecordedPlan(version.buffers.BufferPlan):
        def __init__(self):
            super().__init__()
            self.taken, self.released, self.steps = {}, {}, ()

        def take(self, name, shape):
            buffer = super().take(name, shape)
            self.taken[buffer] = len(self.steps)
            return buffer

        def release(self, *buffers):
            super().release(*buffers)
            self.released.update(dict.fromkeys(buffers, len(self.steps)))

    class RecordedNetwork(version.resnet50.ResNet50):
        def plan_forward(self, x):
            self.plan.steps = self.steps
            return super().plan_forward(x)

    version.resnet50.BufferPlan = RecordedPlan
    return RecordedNetwork(weights_dir)
