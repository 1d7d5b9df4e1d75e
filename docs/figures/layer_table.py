"""The table of all layers, computed from the shapes; article 6 shows it in its section `layers`."""

from common import architecture

HEADER = "| | layer | kernel, stride | input | output | parameters | multiply-adds |\n|--:|---|---|--:|--:|--:|--:|"


def table(image_size=224):
    """Return the table: fifty numbered layers, and those that are not counted: downsampling and pooling."""
    lines, number, totals, out_shape = [HEADER], 0, [0, 0], None
    for layer in architecture.layers(image_size):
        counted = "downsample" not in layer.name
        number += counted
        if layer.name == "fc":
            lines.append(row("", "avgpool", "all", out_shape, layer.in_shape))
        kind = "" if layer.name == "fc" else f"{layer.kernel}×{layer.kernel}, {layer.stride}"
        costs = parameters(layer), layer.multiply_adds
        totals = [total + cost for total, cost in zip(totals, costs)]
        lines.append(row(number if counted else "", f"`{layer.name}`", kind, layer.in_shape, layer.out_shape, *costs))
        if layer.name == "conv1":
            size = architecture.halved(layer.out_shape[0])
            lines.append(row("", "maxpool", "3×3, 2", layer.out_shape, (size, size, layer.out_shape[2])))
        out_shape = layer.out_shape
    lines.append("| | **together** | | | | **{:,}** | **{:,}** |".format(*totals))
    return "\n".join(lines) + "\n"


def row(number, name, kernel, in_shape, out_shape, *costs):
    cells = [number, name, kernel, times(in_shape), times(out_shape), *(f"{cost:,}" for cost in costs or "")]
    return "| " + " | ".join(map(str, cells + [""] * (7 - len(cells)))) + " |"


def times(shape):
    """(56, 56, 64) -> 56×56×64; a vector, whose height and width are one, -> 2048"""
    return "×".join(map(str, shape if shape[0] > 1 else shape[2:]))


def parameters(layer):
    """A layer's trained numbers: its weights; gamma and beta of the batch norm that follows, or the bias of fc."""
    return layer.weights + (1 if layer.name == "fc" else 2) * layer.out_shape[2]
