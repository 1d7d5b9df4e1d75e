"""Version 4's buffer plan over time."""

import matplotlib.pyplot as plt
from matplotlib.patches import Patch, Rectangle

from common.plot_style import BLUE, FAINT, INK, ORANGE, SKY, WIDTH, shade
from common.versions import load_version

MIB = 2**20 / 4  # float32 numbers
KINDS = {"activation": BLUE, "input, padded": ORANGE, "im2col's columns": SKY}


def buffer_plan(weights_file):
    """Every buffer of version 4 as a rectangle: the steps during which it is live, and the memory it lies in."""
    model, spans = recorded(weights_file)
    figure, axes = plt.subplots(figsize=(WIDTH, 4.3))
    for buffer, (start, end) in spans.items():
        kind = next((kind for kind in KINDS if kind.split()[-1] in buffer.name), "activation")
        corner, height = (start, buffer.offset / MIB), buffer.size / MIB
        look = {"facecolor": shade(KINDS[kind], 0.65), "edgecolor": INK, "linewidth": 0.4}
        axes.add_patch(Rectangle(corner, max(end - start, 0.8), height, **look))
    left, top = 0, model.plan.size / MIB
    for right, (name, _) in model.probes.items():
        if name != "avgpool":
            axes.axvline(right, color=FAINT, linewidth=0.8, linestyle="--")
            axes.text((left + right) / 2, 1.02 * top, name, ha="center", va="bottom", size=9)
            left = right
    axes.set(xlim=(0, len(model.steps)), ylim=(0, top), xlabel="step of the plan", ylabel="place in the memory, MiB")
    handles = [Patch(color=shade(colour, 0.65), label=name) for name, colour in KINDS.items()]
    axes.legend(handles=handles, framealpha=1, edgecolor="white")
    unshared = sum(buffer.size for buffer in spans) / MIB
    title = f"{len(spans)} buffers of {unshared:.1f} MiB together, in {top:.1f} MiB of memory"
    axes.set_title(title, loc="left", fontsize=10, pad=20)
    figure.tight_layout()
    return figure


def recorded(weights_file):
    """Return version 4's network, and {buffer: (step at which it is taken, step at which it is released)}."""
    version, spans = load_version("v4_no_alloc"), {}

    class RecordedPlan(version.buffers.BufferPlan):
        steps = ()

        def take(self, name, shape):
            buffer = super().take(name, shape)
            spans[buffer] = len(self.steps), float("inf")
            return buffer

        def release(self, *buffers):
            super().release(*buffers)
            spans.update({buffer: (spans[buffer][0], len(self.steps)) for buffer in buffers})

    class RecordedNetwork(version.resnet50.ResNet50):
        def plan_forward(self, x):
            self.plan.steps = self.steps
            return super().plan_forward(x)

    version.resnet50.BufferPlan = RecordedPlan
    model = RecordedNetwork(weights_file)
    return model, {buffer: (start, min(end, len(model.steps))) for buffer, (start, end) in spans.items()}
