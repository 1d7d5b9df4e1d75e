"""ResNet-50, version 9: float32 convolutions out of products of bytes.

What changed:     where a processor has AMX, a step before each convolution writes three bytes for each number of its
                  input, and the convolution takes six products of bytes for one of numbers (ozaki.py).
Why it helps:     AMX does some 26 products of bytes in the time of one multiply-add of float32 numbers.
What did not:     the network, all other steps, the threads; without AMX, anything.
Run it:           python v9_ozaki/infer.py PICTURE [--threads N]
"""

from collections.abc import Callable
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from buffers import BufferPlan
from codegen import Step, generate
from compiler import Compiler, Isa
from image import check_image, check_image_size
from ops import VECTORS, average_pool, conv2d, fully_connected, max_pool, subsample
from ozaki import digits_shape, ozaki_conv2d, ozaki_input
from threads import Pool, available_cores
from weights import WeightPool, read_manifest, resnet50_shapes

# Name, number of bottlenecks and stride of the first one, of the four stages (He et al. 2016, table 1).
STAGES = (("layer1", 3, 1), ("layer2", 4, 2), ("layer3", 6, 2), ("layer4", 3, 2))


class ResNet50:
    """torchvision's ResNet-50 ("v1.5": a down-sampling bottleneck's stride sits on its 3x3 convolution)."""

    def __init__(
        self,
        weights_file: str | Path,
        image_size: int = 224,
        *,
        isa: str | None = None,
        cache: bool = True,
        threads: int | None = None,
    ):
        """Generate and load the code, load the weights. image_size: height and width of the pictures, at least 32.

        isa: "amx", "avx512", "avx2", "neon" or "generic128"; the best that this machine has unless given.
        cache: whether to keep the compiled code for the next time.
        threads: all cores that this process may use unless given.
        Raises WeightsError if the weights are missing or damaged, CompilerError if there is no working compiler,
        ValueError for a smaller picture, or an isa that this machine does not have,
        ThreadsError for more threads than the system allows.
        """
        check_image_size(image_size)
        self.image_size = image_size
        self.threads = available_cores() if threads is None else threads
        if type(self.threads) is not int or self.threads < 1:
            raise ValueError(f"threads: expected an integer of at least 1, got {threads!r}")
        self.num_classes = read_manifest(weights_file)["num_classes"]
        compiler = Compiler()
        isa = compiler.isa(isa)
        self.network = Network(image_size, self.num_classes, isa, self.threads)
        self.steps = self.network.steps
        library = compiler.load(generate(self.steps, isa), isa, cache)
        self.weights = WeightPool(weights_file, self.steps, isa)
        self.network.plan.allocate()
        self.pool = Pool(library, self.weights.array, self.network.plan.memory, self.threads)
        self.lock = Lock()  # a second caller waits

    def forward(self, image: NDArray[np.float32], probe: Callable | None = None) -> NDArray[np.float32]:
        """Return the logits, a new (num_classes,) float32 array.

        image: (image_size, image_size, 3) float32, normalised. Raises ValueError for anything else.
        probe(name, activation): called with a channels-last float32 array after "stem", "layer1" to
        "layer4" and "avgpool".
        """
        check_image(image, self.image_size)
        with self.lock:
            np.copyto(self.network.image.array[0], image)
            done = 0
            for last, (name, activation) in self.network.probes.items() if probe else ():
                self.run(done, last)
                activation = activation.channels_last()
                probe(name, activation.ravel() if name == "avgpool" else activation)
                done = last
            self.run(done, len(self.steps))
            return self.network.logits.array.ravel()[: self.num_classes].copy()

    def run(self, first: int, last: int) -> None:
        """Run the steps from `first` up to, but not including, `last`."""
        self.pool.run(first, last)


class Network:
    """The steps of ResNet-50 for one picture size, number of classes and machine, and the buffers between them."""

    def __init__(self, image_size: int, num_classes: int, isa: Isa, threads: int = 1):
        self.isa = isa
        self.shapes = resnet50_shapes(num_classes)
        self.plan = BufferPlan(threads)
        self.steps = []
        self.weight_size = 0  # of all steps so far, in float32 numbers
        self.probes = {}  # number of steps done: (name, activation) for a probe to see
        self.image = self.plan.take("image", (image_size, image_size, 3), lanes=3, border=3)
        self.logits = self.plan_forward(self.image)

    def plan_forward(self, x):
        """Plan the network from the image x to the logits, which it returns. Buffers stand for arrays here."""
        x = self.conv_bn(x, "conv1", "bn1", stride=2, padding=3, border=1)
        x = self.max_pool(x, "maxpool", kernel=3, stride=2, padding=1)
        self.probes[len(self.steps)] = ("stem", x)
        for stage, blocks, stride in STAGES:
            for block in range(blocks):
                x = self.bottleneck(x, f"{stage}.{block}", stride if block == 0 else 1, downsample=block == 0)
            self.probes[len(self.steps)] = (stage, x)
        features = self.take("avgpool", 1, 1, x.channels)
        self.note("avgpool", average_pool, x, features)
        self.probes[len(self.steps)] = ("avgpool", features)
        panel = VECTORS * self.isa.width  # the logits fill whole panels; those beyond the classes are zero
        logits = self.take("fc", 1, 1, -(-self.shapes["fc.bias"][0] // panel) * panel)
        self.note("fc", fully_connected, features, logits)
        return logits

    def bottleneck(self, x, name, stride, downsample):
        """1x1, 3x3 and 1x1 convolutions, and around them the residual connection (He et al. 2016, figure 5)."""
        identity = x
        if downsample:
            identity = self.downsample(x, name, stride)
        border = 0 if self.isa.tiles else 1  # tiles read digits, which have it
        y = self.conv_bn(x, f"{name}.conv1", f"{name}.bn1", border=border)
        if downsample:
            self.plan.release(x)
        z = self.conv_bn(y, f"{name}.conv2", f"{name}.bn2", stride, padding=1)
        self.plan.release(y)
        self.conv_bn(z, f"{name}.conv3", f"{name}.bn3", out=identity, add=True)
        self.plan.release(z)
        return identity

    def downsample(self, x, name, stride):
        if stride > 1:  # gather the pixels once instead of skipping three of four for every panel of weights
            kept = self.take(f"{name}.subsample", -(-x.height // stride), -(-x.width // stride), x.channels)
            self.note(f"{name}.subsample", subsample, x, kept, stride=stride)
            x = kept
        out = self.conv_bn(x, f"{name}.downsample.0", f"{name}.downsample.1", relu=False)
        if stride > 1:
            self.plan.release(x)
        return out

    def conv_bn(self, x, conv, bn, stride=1, padding=0, border=0, out=None, add=False, relu=True):
        """A convolution and its batch norm; `conv` and `bn` are their names in the weights file.

        border: of zeros around the result, for a next step with that padding. out: with `add`, the residual's buffer.
        """
        out_channels, kernel, _, _ = self.shapes[f"{conv}.weight"]
        out_h, out_w = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[:2])
        out = out or self.take(conv, out_h, out_w, out_channels, border)
        arguments = {"kernel": kernel, "stride": stride, "padding": padding, "add": add, "relu": relu}
        if self.isa.tiles and x is not self.image:
            return self.ozaki_conv(x, conv, bn, out, **arguments)
        self.note(conv, conv2d, x, out, bn, **arguments)
        return out

    def ozaki_conv(self, x, conv, bn, out, **arguments):
        digits = self.plan.take(f"{conv}.digits", *digits_shape(x), border=arguments["padding"])
        self.note(f"{conv}.digits", ozaki_input, x, digits)
        self.note(conv, ozaki_conv2d, digits, out, bn, **arguments)
        self.plan.release(digits)
        return out

    def max_pool(self, x, name, kernel, stride, padding):
        out_h, out_w = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[:2])
        out = self.take(name, out_h, out_w, x.channels)
        self.note(name, max_pool, x, out, kernel=kernel, stride=stride, padding=padding)
        self.plan.release(x)
        return out

    def take(self, name, height, width, channels, border=0):
        return self.plan.take(name, (height, width, channels), self.isa.width, border)

    def note(self, name, operator, x, out, batch_norm="", **arguments):
        """Note a step; its weights follow those of the one before."""
        step = Step(name, operator, x, out, arguments, self.weight_size, batch_norm)
        self.steps.append(step)
        self.weight_size += step.weight_size
