"""ResNet-50, version 1: the definition, as plain Python loops.

What changed:     nothing yet: this is where the versions start.
Why it helps:     to be read. Every sum is written out, one multiplication at a time, on nested lists; the
                  interpreter spends some ten instructions of its own on each.
What did not:     nothing yet. From here on: the network, its results, and how the program is used.
Run it:           python v1_loops/infer.py PICTURE
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image import check_image, check_image_size
from ops import add, average_pool, batch_norm, conv2d, fully_connected, max_pool, relu
from weights import WeightFile

# Name, number of bottlenecks and stride of the first one, of the four stages (He et al. 2016, table 1).
STAGES = (("layer1", 3, 1), ("layer2", 4, 2), ("layer3", 6, 2), ("layer4", 3, 2))


class ResNet50:
    """torchvision's ResNet-50 ("v1.5": a down-sampling bottleneck's stride sits on its 3x3 convolution)."""

    def __init__(self, weights_file: str | Path, image_size: int = 224):
        """Open the weights. image_size: height and width of the pictures, at least 32 pixels.

        Raises WeightsError if the weights are missing or damaged, ValueError for a smaller picture.
        """
        check_image_size(image_size)
        self.image_size = image_size
        self.weights = WeightFile(weights_file)
        self.num_classes = self.weights.manifest["num_classes"]

    def forward(self, image: NDArray[np.float32], probe: Callable | None = None) -> NDArray[np.float32]:
        """Return the logits, a new (num_classes,) float32 array.

        image: (image_size, image_size, 3) float32, normalised. Raises ValueError for anything else.
        probe(name, activation): called with a channels-last float32 array after "stem", "layer1" to
        "layer4" and "avgpool".
        """
        check_image(image, self.image_size)
        probe = probe or (lambda name, activation: None)
        x = relu(self.conv_bn(image.tolist(), "conv1", "bn1", stride=2, padding=3))
        x = max_pool(x, kernel=3, stride=2, padding=1)
        probe("stem", np.array(x, dtype=np.float32))
        for stage, blocks, stride in STAGES:
            for block in range(blocks):
                x = self.bottleneck(x, f"{stage}.{block}", stride if block == 0 else 1, downsample=block == 0)
            probe(stage, np.array(x, dtype=np.float32))
        x = average_pool(x)
        probe("avgpool", np.array(x, dtype=np.float32))
        x = fully_connected(x, self.weights["fc.weight"].tolist(), self.weights["fc.bias"].tolist())
        return np.array(x, dtype=np.float32)

    def bottleneck(self, x, name, stride, downsample):
        """1x1, 3x3 and 1x1 convolutions, and around them the residual connection (He et al. 2016, figure 5)."""
        identity = x
        if downsample:
            identity = self.conv_bn(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        y = relu(self.conv_bn(x, f"{name}.conv1", f"{name}.bn1"))
        y = relu(self.conv_bn(y, f"{name}.conv2", f"{name}.bn2", stride, padding=1))
        y = self.conv_bn(y, f"{name}.conv3", f"{name}.bn3")
        return relu(add(y, identity))

    def conv_bn(self, x, conv, bn, stride=1, padding=0):
        """A convolution and its batch norm; `conv` and `bn` are their names in the weights."""
        x = conv2d(x, self.weights[f"{conv}.weight"].tolist(), stride, padding)
        gamma, beta = self.weights[f"{bn}.weight"].tolist(), self.weights[f"{bn}.bias"].tolist()
        mean, variance = self.weights[f"{bn}.running_mean"].tolist(), self.weights[f"{bn}.running_var"].tolist()
        return batch_norm(x, gamma, beta, mean, variance)
