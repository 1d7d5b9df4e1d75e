"""What ResNet-50 costs, layer by layer: multiply-adds and bytes, from the shapes alone."""

from dataclasses import dataclass

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # bottlenecks, channels of their 3x3 convolutions
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Layer:
    """One layer with weights. Shapes are (height, width, channels); a vector is (1, 1, channels)."""

    name: str
    in_shape: tuple
    out_shape: tuple
    kernel: int = 1
    stride: int = 1

    @property
    def weights(self):
        return self.kernel**2 * self.in_shape[2] * self.out_shape[2]

    @property
    def multiply_adds(self):
        return self.out_shape[0] * self.out_shape[1] * self.weights

    @property
    def flops(self):
        return 2 * self.multiply_adds

    @property
    def bytes(self):
        """The least traffic with memory there can be: the weights.

        All layers' together, 102 MB, are more than a cache keeps from one picture to the next. Activations are
        a few MB at most and can be handed on in cache.
        """
        return FLOAT * self.weights


def layers(image_size, num_classes=1000):
    """Return the network's 53 convolutions and its fully connected layer, in the order in which they run."""
    size = halved(image_size)
    found = [Layer("conv1", (image_size, image_size, 3), (size, size, 64), kernel=7, stride=2)]
    size, channels = halved(size), 64
    for stage, (blocks, width) in enumerate(STAGES, start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            found += _bottleneck(f"layer{stage}.{block}", size, channels, width, stride, downsample=block == 0)
            size, channels = found[-1].out_shape[1:]
    return [*found, Layer("fc", (1, 1, channels), (1, 1, num_classes))]


def _bottleneck(name, size, channels, width, stride, downsample):
    out = halved(size) if stride == 2 else size
    block = [Layer(f"{name}.downsample.0", (size, size, channels), (out, out, 4 * width), 1, stride)]
    return (block if downsample else []) + [
        Layer(f"{name}.conv1", (size, size, channels), (size, size, width)),
        Layer(f"{name}.conv2", (size, size, width), (out, out, width), 3, stride),
        Layer(f"{name}.conv3", (out, out, width), (out, out, 4 * width)),
    ]


def halved(size):
    """The size after a stride of 2 with 'same' padding, for every kernel of the network."""
    return (size + 1) // 2


def flops(image_size, num_classes=1000):
    """Floating-point operations a picture; a multiply-add counts as two."""
    return sum(layer.flops for layer in layers(image_size, num_classes))


def progress(image_size):
    """Share of the multiply-adds that is done when each probe of `ResNet50.forward` is called."""
    total, done, shares = flops(image_size), 0, {}
    for layer in layers(image_size):
        done += layer.flops
        shares["stem" if layer.name == "conv1" else layer.name.split(".")[0]] = done / total
    return shares
