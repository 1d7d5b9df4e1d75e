"""ResNet-50, version 4: nothing is allocated during inference.

What changed:     the network is walked once, at construction. The walk takes a buffer for every activation and
                  notes every operation; inference only runs the notes, each writing into its buffer.
Why it helps:     by little: writing over the input spares batch norm, ReLU and addition an array each. What is sure: an
                  allocator that returns memory to the system, at a page fault for every 4 KiB, costs nothing now.
What did not:     the network, its arithmetic, and the weight pool.
Run it:           python v4_no_alloc/infer.py PICTURE
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from buffers import Buffer, BufferPlan
from image import check_image, check_image_size
from ops import add, average_pool, batch_norm, conv2d, fully_connected, max_pool, relu
from weights import WeightPool

# Name, number of bottlenecks and stride of the first one, of the four stages (He et al. 2016, table 1).
STAGES = (("layer1", 3, 1), ("layer2", 4, 2), ("layer3", 6, 2), ("layer4", 3, 2))


class ResNet50:
    """torchvision's ResNet-50 ("v1.5": a down-sampling bottleneck's stride sits on its 3x3 convolution)."""

    def __init__(self, weights_file: str | Path, image_size: int = 224):
        """Load the weights and plan the buffers. image_size: height and width of the pictures, at least 32 pixels.

        Raises WeightsError if the weights are missing or damaged, ValueError for a smaller picture.
        """
        check_image_size(image_size)
        self.image_size = image_size
        self.weights = WeightPool(weights_file)
        self.num_classes = self.weights.manifest["num_classes"]
        self.plan = BufferPlan()
        self.steps = []  # (operator, arguments) in order
        self.probes = {}  # number of steps done: (name, activation) for a probe to see
        self.image = self.plan.take("image", (image_size, image_size, 3))
        self.logits = self.plan_forward(self.image)
        self.plan.allocate()
        for _, arguments in self.steps:
            arguments[:] = [argument.array if isinstance(argument, Buffer) else argument for argument in arguments]

    def forward(self, image: NDArray[np.float32], probe: Callable | None = None) -> NDArray[np.float32]:
        """Return the logits, a new (num_classes,) float32 array.

        image: (image_size, image_size, 3) float32, normalised. Raises ValueError for anything else.
        probe(name, activation): called with a channels-last float32 array after "stem", "layer1" to
        "layer4" and "avgpool".
        """
        check_image(image, self.image_size)
        np.copyto(self.image.array, image)
        for done, (operator, arguments) in enumerate(self.steps, start=1):
            operator(*arguments)
            if probe is not None and done in self.probes:
                name, activation = self.probes[done]
                probe(name, activation.array.copy())
        return self.logits.array.copy()

    def plan_forward(self, x):
        """Plan the network from the image x to the logits, which it returns. Buffers stand for arrays here."""
        x = self.in_place(relu, self.conv_bn(x, "conv1", "bn1", stride=2, padding=3))
        x = self.max_pool(x, "maxpool", kernel=3, stride=2, padding=1)
        self.probes[len(self.steps)] = ("stem", x)
        for stage, blocks, stride in STAGES:
            for block in range(blocks):
                x = self.bottleneck(x, f"{stage}.{block}", stride if block == 0 else 1, downsample=block == 0)
            self.probes[len(self.steps)] = (stage, x)
        features = self.plan.take("avgpool", x.shape[2:])
        self.steps.append((average_pool, [x, features]))
        self.probes[len(self.steps)] = ("avgpool", features)
        logits = self.plan.take("fc", (self.num_classes,))
        self.steps.append((fully_connected, [features, self.weights["fc.weight"], self.weights["fc.bias"], logits]))
        return logits

    def bottleneck(self, x, name, stride, downsample):
        """1x1, 3x3 and 1x1 convolutions, and around them the residual connection (He et al. 2016, figure 5)."""
        identity = x
        if downsample:
            identity = self.conv_bn(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        y = self.in_place(relu, self.conv_bn(x, f"{name}.conv1", f"{name}.bn1"))
        if downsample:
            self.plan.release(x)
        z = self.in_place(relu, self.conv_bn(y, f"{name}.conv2", f"{name}.bn2", stride, padding=1))
        self.plan.release(y)
        y = self.conv_bn(z, f"{name}.conv3", f"{name}.bn3")
        self.plan.release(z)
        y = self.in_place(relu, self.in_place(add, y, identity))
        self.plan.release(identity)
        return y

    def conv_bn(self, x, conv, bn, stride=1, padding=0):
        """A convolution and its batch norm; `conv` and `bn` are their names in the weights."""
        weight = self.weights[f"{conv}.weight"]
        out_channels, kernel_h, kernel_w, in_channels = weight.shape
        out_h, out_w = ((size + 2 * padding - kernel_h) // stride + 1 for size in x.shape[:2])
        out = self.plan.take(conv, (out_h, out_w, out_channels))
        padded = self.take_padded(x, conv, padding) if padding else None
        matrix = (out_h * out_w, kernel_h * kernel_w * in_channels)
        columns = self.plan.take(f"{conv} (columns)", matrix) if kernel_h > 1 or stride > 1 else None
        self.steps.append((conv2d, [x, weight, stride, padding, padded, columns, out]))
        self.plan.release(*(buffer for buffer in (padded, columns) if buffer is not None))
        return self.in_place(batch_norm, out, self.weights[f"{bn}.shift"])

    def max_pool(self, x, name, kernel, stride, padding):
        out_h, out_w = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[:2])
        padded, out = self.take_padded(x, name, padding), self.plan.take(name, (out_h, out_w, x.shape[2]))
        self.steps.append((max_pool, [x, kernel, stride, padding, padded, out]))
        self.plan.release(x, padded)
        return out

    def take_padded(self, x, name, padding):
        height, width, channels = x.shape
        return self.plan.take(f"{name} (padded)", (height + 2 * padding, width + 2 * padding, channels))

    def in_place(self, operator, x, *others):
        """Note an operation that writes its result over x."""
        self.steps.append((operator, [x, *others, x]))
        return x
