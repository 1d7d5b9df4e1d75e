"""ResNet-50, described once for all that is not a version: its layers, their tensors, and what they cost.

The network is He et al., "Deep Residual Learning for Image Recognition" (2015), table 1, 50 layers, in torchvision's
variant ("v1.5"): the stride of a down-sampling bottleneck sits on its 3x3 convolution.
"""

from dataclasses import dataclass
from math import prod

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # layer1 ... layer4: (bottlenecks, channels of their 3x3)
EXPANSION = 4  # a bottleneck puts out four times as many channels as its 3x3 convolution has
FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Layer:
    """A convolution and the batch norm after it, or the fully connected layer. Shapes are (height, width, channels)."""

    name: str
    batch_norm: str  # its name; empty for the fully connected layer
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    kernel: int = 1
    stride: int = 1

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """{state-dict name: shape as in PyTorch}; a convolution is (out, in, kernel, kernel)."""
        in_channels, out_channels = self.in_shape[2], self.out_shape[2]
        if not self.batch_norm:
            return {f"{self.name}.weight": (out_channels, in_channels), f"{self.name}.bias": (out_channels,)}
        vectors = ("weight", "bias", "running_mean", "running_var")
        convolution = {f"{self.name}.weight": (out_channels, in_channels, self.kernel, self.kernel)}
        return convolution | {f"{self.batch_norm}.{vector}": (out_channels,) for vector in vectors}

    @property
    def weights(self) -> int:
        """Numbers in the convolution's kernel, or in the matrix."""
        return prod(self.tensors[f"{self.name}.weight"])

    @property
    def multiply_adds(self) -> int:
        return self.out_shape[0] * self.out_shape[1] * self.weights

    @property
    def flops(self) -> int:
        return 2 * self.multiply_adds

    @property
    def bytes(self) -> int:
        """The least traffic with memory there can be: the weights.

        All layers' together, 102 MB, are more than a cache keeps from one picture to the next. Activations are a few
        MB at most and can be handed on in cache.
        """
        return FLOAT32 * self.weights


def layers(image_size: int = 224, num_classes: int = 1000) -> list[Layer]:
    """Return the 53 convolutions and the fully connected layer, in the order in which they run."""
    size = halved(image_size)
    found = [Layer("conv1", "bn1", (image_size, image_size, 3), (size, size, 64), kernel=7, stride=2)]
    size, channels = halved(size), 64
    for stage, (blocks, width) in enumerate(STAGES, start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            found += bottleneck(f"layer{stage}.{block}", size, channels, width, stride, downsample=block == 0)
            size, channels = found[-1].out_shape[1:]
    return [*found, Layer("fc", "", (1, 1, channels), (1, 1, num_classes))]


def bottleneck(name: str, size: int, channels: int, width: int, stride: int, downsample: bool) -> list[Layer]:
    """Return a block's three convolutions, before them the fourth that brings its input to the width of its output."""
    out, wide = halved(size) if stride == 2 else size, EXPANSION * width
    down = Layer(f"{name}.downsample.0", f"{name}.downsample.1", (size, size, channels), (out, out, wide), 1, stride)
    return [down] * downsample + [
        Layer(f"{name}.conv1", f"{name}.bn1", (size, size, channels), (size, size, width)),
        Layer(f"{name}.conv2", f"{name}.bn2", (size, size, width), (out, out, width), 3, stride),
        Layer(f"{name}.conv3", f"{name}.bn3", (out, out, width), (out, out, wide)),
    ]


def halved(size: int) -> int:
    """The size after a stride of 2 with "same" padding, for every kernel of the network."""
    return (size + 1) // 2


def tensor_shapes(num_classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """Return {state-dict name: shape} of all 267 tensors, convolutions (out, in, kh, kw) as in PyTorch.

    `num_batches_tracked`, a training counter that inference does not use, is left out.
    """
    return {name: shape for layer in layers(num_classes=num_classes) for name, shape in layer.tensors.items()}


def flops(image_size: int = 224, num_classes: int = 1000) -> int:
    """Floating-point operations a picture; a multiply-add counts as two."""
    return sum(layer.flops for layer in layers(image_size, num_classes))


def work_done(image_size: int = 224) -> dict[str, float]:
    """Share of the multiply-adds that is done when each probe of `ResNet50.forward` is called."""
    total, done, shares = flops(image_size), 0, {}
    for layer in layers(image_size):
        done += layer.flops
        shares["stem" if layer.name == "conv1" else layer.name.split(".")[0]] = done / total
    return shares
