"""The weight pool: every tensor in one block of memory, checked and read when the model is built."""

import hashlib
import io
import json
import math
import shlex
from pathlib import Path

import numpy as np

FORMAT = 1


class WeightsError(Exception):
    """Weights that cannot be used; the message is one line that names the file and the command that mends it."""


def remedy(weights_dir):
    return f"to mend it: python common/export_weights.py --force --out {shlex.quote(str(weights_dir))}"


def read_manifest(weights_dir):
    """Return the manifest of a weights directory: source, num_classes, labels, preprocessing, tensors.

    Raises WeightsError if it is missing, damaged, or of a format that this version does not know.
    """
    path = Path(weights_dir) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        newer = manifest["format"] > FORMAT
        if not newer:
            check_manifest(manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(f"no weights: {path} is missing; {remedy(weights_dir)}") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); {remedy(weights_dir)}") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsError(f"{path} is damaged ({reason}); {remedy(weights_dir)}") from None
    if newer:
        raise WeightsError(
            f"{path} has format {manifest['format']}, this code reads format {FORMAT}: update the repository, "
            f"or {remedy(weights_dir)}"
        )
    return manifest


def check_manifest(manifest):
    """Raise ValueError, TypeError or KeyError unless the manifest's entries fit each other and the network."""
    if not isinstance(manifest["source"], str):
        raise TypeError("source: expected text")
    if len(manifest["labels"]) != manifest["num_classes"]:
        raise ValueError(f"{len(manifest['labels'])} labels for {manifest['num_classes']} classes")
    preprocessing = manifest["preprocessing"]
    crop, resize = preprocessing["crop"], preprocessing["resize"]
    if not (isinstance(crop, int) and isinstance(resize, int) and 32 <= crop <= resize):
        raise ValueError("preprocessing: expected whole numbers 32 <= crop <= resize")
    channels = np.array([preprocessing["mean"], preprocessing["std"]], dtype=np.float32)
    if channels.shape != (2, 3) or not np.isfinite(channels).all() or not channels[1].all():
        raise ValueError("preprocessing: expected three means and three standard deviations that are not zero")
    if preprocessing["interpolation"] not in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"):
        raise ValueError(f"preprocessing: unknown interpolation {preprocessing['interpolation']!r}")
    expected = resnet50_shapes(manifest["num_classes"])
    found = {name: tuple(entry["shape"]) for name, entry in manifest["tensors"].items()}
    if not all(isinstance(entry["sha256"], str) for entry in manifest["tensors"].values()):
        raise TypeError("tensors: expected a sha256 for each")
    if found != expected:
        name = min(name for name in expected.keys() | found.keys() if found.get(name) != expected.get(name))
        raise ValueError(f"{name}: shape {found.get(name)}, ResNet-50 has {expected.get(name)}")


def resnet50_shapes(num_classes):
    """Return {name: shape} of every tensor of ResNet-50; convolutions are (out, kernel_h, kernel_w, in)."""
    shapes = {"fc.weight": (num_classes, 2048), "fc.bias": (num_classes,)}

    def add_conv_bn(conv, bn, out_channels, kernel, in_channels):
        shapes[f"{conv}.weight"] = (out_channels, kernel, kernel, in_channels)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{bn}.{name}"] = (out_channels,)

    add_conv_bn("conv1", "bn1", 64, 7, 3)
    in_channels = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            add_conv_bn(f"{name}.conv1", f"{name}.bn1", width, 1, in_channels)
            add_conv_bn(f"{name}.conv2", f"{name}.bn2", width, 3, width)
            add_conv_bn(f"{name}.conv3", f"{name}.bn3", 4 * width, 1, width)
            if block == 0:
                add_conv_bn(f"{name}.downsample.0", f"{name}.downsample.1", 4 * width, 1, in_channels)
            in_channels = 4 * width
    return shapes


def read_tensor(weights_dir, name, entry):
    """Read one tensor and check it against its manifest entry: float32, the same shape, the same bytes."""
    path = Path(weights_dir) / f"{name}.npy"
    try:
        data = path.read_bytes()
        tensor = np.load(io.BytesIO(data), allow_pickle=False)
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing; {remedy(weights_dir)}") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error}); {remedy(weights_dir)}") from None
    except Exception as error:  # a damaged header makes NumPy's parser fail in many ways
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path} is damaged ({reason}); {remedy(weights_dir)}") from None
    shape = tuple(entry["shape"])
    if not isinstance(tensor, np.ndarray) or tensor.shape != shape or tensor.dtype != np.float32:
        found = f"{tensor.dtype} {tensor.shape}" if isinstance(tensor, np.ndarray) else "an archive"
        raise WeightsError(f"{path} holds {found}, expected float32 {shape}; {remedy(weights_dir)}")
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise WeightsError(f"{path} does not match its checksum; {remedy(weights_dir)}")
    return tensor


def prepare(weights_dir, tensors, epsilon=1e-5):
    """Yield (name, tensor) of a manifest's tensors in the form that the operators use.

    A convolution holds the factor of its batch norm already; of the batch norm, NAME.shift is left (see
    ops.batch_norm).
    """
    for name, entry in tensors.items():
        layer, _, _ = name.rpartition(".")
        if layer == "fc":
            yield name, read_tensor(weights_dir, name, entry)
        elif len(entry["shape"]) == 4:
            bn = layer.replace("conv", "bn").replace("downsample.0", "downsample.1")
            kinds = (f"{bn}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var"))
            gamma, beta, mean, variance = (read_tensor(weights_dir, kind, tensors[kind]) for kind in kinds)
            scale = gamma / np.sqrt(variance + np.float32(epsilon))
            yield name, read_tensor(weights_dir, name, entry) * scale[:, None, None, None]
            yield f"{bn}.shift", beta - mean * scale


class WeightPool:
    """The tensors of a weights directory by name, as views of one contiguous block of float32."""

    def __init__(self, weights_dir):
        """Read and check every file. Raises WeightsError."""
        self.manifest = read_manifest(weights_dir)
        tensors = self.manifest["tensors"]
        # A batch norm's shift takes the place of its bias; its weight and statistics need none.
        shapes = {name: entry["shape"] for name, entry in tensors.items()}
        kept = (shape for name, shape in shapes.items() if len(shape) > 1 or name.endswith("bias"))
        self.block = np.empty(sum(math.prod(shape) for shape in kept), dtype=np.float32)
        self.tensors = {}
        offset = 0
        for name, tensor in prepare(weights_dir, tensors):
            view = self.block[offset : offset + tensor.size].reshape(tensor.shape)
            view[...] = tensor
            self.tensors[name] = view
            offset += tensor.size

    def __getitem__(self, name):
        """Return the float32 tensor `name`, a view of the block; convolutions are (out, kernel_h, kernel_w, in)."""
        return self.tensors[name]
