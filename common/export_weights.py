"""Fetch, convert or make up the weights of a ResNet-50, and write them where the versions read them.

    python common/export_weights.py                       pretrained weights if they can be had, else the demo model
    python common/export_weights.py torchvision           torchvision's pretrained weights
    python common/export_weights.py checkpoint my.pth     a fine-tuned ResNet-50 of your own
    python common/export_weights.py demo                  the small model of our own, 200 classes
    python common/export_weights.py synthetic             random weights, for timing and tests

weights/README.md describes the sources and the file. Nothing here needs PyTorch.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, Python looks beside this file only

from common.checkpoint import checkpoint  # noqa: E402
from common.packed import unpack  # noqa: E402
from common.pretrained import RELEASES, pretrained  # noqa: E402
from common.synthetic import synthetic  # noqa: E402
from common.weights_file import IMAGENET_V1, ExportError, intact, refuse_to_replace, write_weights  # noqa: E402

DEFAULT_OUT = ROOT / "weights" / "resnet50.safetensors"
DEMO = ROOT / "weights" / "demo" / "resnet50.npz"
RANDOM = "these weights are random numbers; the predictions mean nothing"


class Export(NamedTuple):
    """What a source gives: the arguments of write_weights."""

    tensors: dict[str, NDArray[np.float32]]
    source: str
    labels: list[str]
    preprocessing: dict[str, Any]
    note: str = ""


def from_torchvision(args: argparse.Namespace) -> Export:
    """torchvision's pretrained weights, with ImageNet's labels and the preprocessing they expect."""
    tensors, labels, preprocessing = pretrained(args.tag, args.url)
    return Export(tensors, f"torchvision {args.tag}", labels, preprocessing)


def from_checkpoint(args: argparse.Namespace) -> Export:
    """A user's own state dict; what is not given of the preprocessing is IMAGENET1K_V1's."""
    tensors = checkpoint(args.file)
    given = {key: value for key in IMAGENET_V1 if (value := getattr(args, key, None)) is not None}
    labels = read_labels(args.labels) if args.labels else class_numbers(len(tensors["fc.bias"]))
    note = "" if args.labels else "the classes have no names; --labels FILE, with one name a line, gives them"
    return Export(tensors, f"checkpoint {args.file.name}", labels, IMAGENET_V1 | given, note)


def from_demo(args: argparse.Namespace) -> Export:
    """The small model of our own, 200 classes of ImageNet, or another that training/train.py packed."""
    tensors, labels, size = unpack(args.file or DEMO)
    source, note = "demo", f"our own small model, {len(labels)} classes; `make weights` fetches ImageNet's 1000"
    if args.file:
        source, note = f"packed {args.file.name}", ""
    # A crop as large as the resized picture: it was trained on whole ones.
    return Export(tensors, source, labels, IMAGENET_V1 | {"resize": size, "crop": size}, note)


def from_synthetic(args: argparse.Namespace) -> Export:
    """Random weights: good for timing and for tests."""
    tensors = synthetic(args.seed, args.num_classes)
    return Export(tensors, f"synthetic seed {args.seed}", class_numbers(args.num_classes), IMAGENET_V1, RANDOM)


def from_auto(args: argparse.Namespace) -> Export:
    """Pretrained weights, else the demo model. Intact weights give way to pretrained ones only."""
    try:
        return from_torchvision(args)
    except (ExportError, KeyboardInterrupt) as error:
        why = str(error) or "interrupted"
        if manifest := intact(args.out):
            raise ExportError(f"{args.out} keeps its weights ({manifest['source']}): {why}") from None
        print(f"going on without torchvision's weights, the better ones: {why}", file=sys.stderr)
        return from_demo(args)


def read_labels(file: Path) -> list[str]:
    """Return the class names in a UTF-8 text file, one a line, in the order of the classes."""
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except UnicodeDecodeError:
        raise ExportError(f"{file} is not UTF-8 text: save the class names as UTF-8, one a line") from None


def class_numbers(num_classes: int) -> list[str]:
    return [f"class {index}" for index in range(num_classes)]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line; `export` is the function of the source."""
    parser = argparse.ArgumentParser(parents=[places()], description=__doc__.partition("\n")[0])
    mirror = os.environ.get("RESNET50_URL")
    parser.set_defaults(export=from_auto, out=DEFAULT_OUT, force=False, tag=next(iter(RELEASES)), url=mirror, file=None)
    sources = parser.add_subparsers(metavar="SOURCE", help="`SOURCE --help` lists its options")

    def source(name, export, summary):
        added = sources.add_parser(name, parents=[places()], help=summary, description=summary)
        added.set_defaults(export=export)
        return added.add_argument

    source("auto", from_auto, "the default: pretrained weights, else the demo model; says which")
    option = source("torchvision", from_torchvision, "pretrained weights, downloaded (103 MB)")
    option("--tag", choices=RELEASES, default=next(iter(RELEASES)), help="which training (default: %(default)s)")
    option("--url", default=mirror, help="a mirror's address of the file, or its path here (default: $RESNET50_URL)")
    option = source("demo", from_demo, "the small model of our own, or another packed one")
    option("file", type=Path, nargs="?", help="what training/train.py packed (default: the one in weights/demo)")
    option = source("synthetic", from_synthetic, "random weights, the same for one seed on every machine")
    option("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    option("--num-classes", type=int, default=1000, metavar="N", help="(default: %(default)s)")
    option = source("checkpoint", from_checkpoint, "a ResNet-50 state dict of your own, with any number of classes")
    option("file", type=Path, help="a state dict: from torch.save(model.state_dict(), FILE), or .safetensors")
    option("--labels", type=Path, metavar="FILE", help="class names, one a line, UTF-8 (default: class 0 ...)")
    option("--resize", type=int, metavar="N", help="a picture's shorter side before the crop (default: 256)")
    option("--crop", type=int, metavar="N", help="side of the square that the network sees (default: 224)")
    for name, what in (("mean", "subtracted from pixels of 0 ... 1"), ("std", "then divided by")):
        option(f"--{name}", type=float, nargs=3, metavar=("R", "G", "B"), help=f"{what} (default: ImageNet's)")
    return parser.parse_args(argv)


def places() -> argparse.ArgumentParser:
    """The options that stand before SOURCE or after it."""
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, metavar="FILE", help="what to write (default: this repository's weights)")
    parser.add_argument("--force", action="store_true", help="replace a file that is already there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = parse_arguments(argv)
    try:
        if args.export is from_auto and not args.force and (manifest := intact(args.out)):
            print(f"{args.out} keeps its weights ({manifest['source']}); --force fetches torchvision's")
            return 0
        refuse_to_replace(args.out, args.force)  # before a download, not after it
        export = args.export(args)
        write_weights(args.out, **export._asdict(), force=args.force)
    except (ExportError, OSError) as error:
        unreadable = isinstance(error, OSError) and error.filename
        print(f"error: {error.filename}: {error.strerror}" if unreadable else f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    print(f"wrote {args.out}: {export.source}, {len(export.labels)} classes")
    if export.note:
        print(f"note: {export.note}")
    earlier = args.out.with_suffix("")
    if (earlier / "manifest.json").is_file():
        print(f"{earlier} holds weights of the earlier format, which nothing reads any more: you can delete it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
