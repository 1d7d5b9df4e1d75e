"""The tensors of torchvision's ResNet-50: their state-dict names and shapes, without PyTorch.

The network is He et al., "Deep Residual Learning for Image Recognition" (2015), table 1, 50 layers. A stage's
first block has a fourth convolution, `downsample.0`, which brings its input to the width of its output.
"""

from common.errors import ExportError

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # layer1 ... layer4: (blocks, channels of their 3x3)
EXPANSION = 4  # a block puts out four times as many channels as its 3x3 convolution has
FEATURES = 512 * EXPANSION  # channels that reach the fully connected layer
NAMES_SHOWN = 4  # of the tensors that do not fit, in an error message


def expected_shapes(num_classes):
    """Return {state-dict name: shape} in network order; convolutions are (out, in, kh, kw), as in PyTorch.

    `num_batches_tracked`, a training counter that inference does not use, is left out.
    """
    shapes = _conv_and_norm("conv1", "bn1", (64, 3, 7, 7))
    in_channels = 64
    for stage, (blocks, width) in enumerate(STAGES, start=1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}."
            out_channels = width * EXPANSION
            shapes |= _conv_and_norm(prefix + "conv1", prefix + "bn1", (width, in_channels, 1, 1))
            shapes |= _conv_and_norm(prefix + "conv2", prefix + "bn2", (width, width, 3, 3))
            shapes |= _conv_and_norm(prefix + "conv3", prefix + "bn3", (out_channels, width, 1, 1))
            if block == 0:
                down = prefix + "downsample."
                shapes |= _conv_and_norm(down + "0", down + "1", (out_channels, in_channels, 1, 1))
            in_channels = out_channels
    return shapes | {"fc.weight": (num_classes, FEATURES), "fc.bias": (num_classes,)}


def _conv_and_norm(conv, norm, shape):
    """The tensors of one convolution (no bias) and of the batch norm that follows it."""
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{conv}.weight": shape} | {f"{norm}.{name}": shape[:1] for name in vectors}


def check_shapes(shapes):
    """Return the number of classes of {name: PyTorch shape} if it is a ResNet-50's; else raise ExportError.

    The error names the first tensors that are missing, have another shape, or have no place in the network.
    """
    fc = tuple(shapes.get("fc.weight", ()))
    num_classes = fc[0] if len(fc) == 2 and fc[0] > 0 else 1000
    expected = expected_shapes(num_classes)
    faults = []
    for name, shape in expected.items():
        if name not in shapes:
            faults.append(f"{name} is missing")
        elif tuple(shapes[name]) != shape:
            faults.append(f"{name} is {tuple(shapes[name])}, not {shape}")
    faults += [f"{name} is not part of it" for name in shapes if name not in expected]
    if faults:
        more = f"; and {len(faults) - NAMES_SHOWN} more" if len(faults) > NAMES_SHOWN else ""
        raise ExportError(f"not a ResNet-50: {'; '.join(faults[:NAMES_SHOWN])}{more}")
    return num_classes
