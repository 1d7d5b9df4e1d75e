"""Fetch, convert or make up the weights of a ResNet-50, and write them where the versions read them.

    python common/export_weights.py                       pretrained weights if they can be had, else the demo model
    python common/export_weights.py torchvision           torchvision's pretrained weights
    python common/export_weights.py checkpoint my.pth     a fine-tuned ResNet-50 of your own
    python common/export_weights.py demo                  the small model of our own, 200 classes
    python common/export_weights.py synthetic             random weights, for timing and tests

weights/README.md describes the sources and the file. Only `torchvision` and `checkpoint` need PyTorch.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, Python looks beside this file only

from common import pretrained  # noqa: E402
from common.packed import unpack  # noqa: E402
from common.synthetic import synthetic  # noqa: E402
from common.weights_file import (  # noqa: E402
    IMAGENET_V1,
    AlreadyThere,
    ExportError,
    check_preprocessing,
    intact,
    refuse_to_replace,
    write_weights,
)

DEFAULT_OUT = ROOT / "weights" / "resnet50.safetensors"
DEMO = ROOT / "weights" / "demo" / "resnet50.npz"
TAGS = ("IMAGENET1K_V2", "IMAGENET1K_V1")


class Export(NamedTuple):
    """What a source gives; `remark` is a line for the user."""

    tensors: dict[str, NDArray[np.float32]]
    source: str
    labels: list[str]
    preprocessing: dict[str, Any]
    remark: str = ""


def from_torchvision(tag: str = TAGS[0]) -> Export:
    """torchvision's pretrained weights, with ImageNet's labels and the preprocessing they expect."""
    tensors, labels, preprocessing = pretrained.pretrained(tag)
    return Export(tensors, f"torchvision {tag}", labels, preprocessing)


def from_demo(file: Path | None = None) -> Export:
    """The small model of our own, 200 classes of ImageNet, or another that training/train.py packed."""
    tensors, labels, size = unpack(file or DEMO)
    # A crop as large as the resized picture: it was trained on whole ones.
    return Export(
        tensors, f"packed {file.name}" if file else "demo", labels, IMAGENET_V1 | {"resize": size, "crop": size}
    )


def from_synthetic(seed: int = 0, num_classes: int = 1000) -> Export:
    """Random weights: good for timing and for tests."""
    labels = [f"class {index}" for index in range(num_classes)]
    remark = "These weights are random: what the network predicts with them means nothing."
    return Export(synthetic(seed, num_classes), f"synthetic seed {seed}", labels, IMAGENET_V1, remark)


def from_checkpoint(file: Path, labels_file: Path | None = None, **changes: Any) -> Export:
    """A user's own state dict. changes: what differs from IMAGENET1K_V1's preprocessing; None means nothing."""
    preprocessing = IMAGENET_V1 | {key: value for key, value in changes.items() if value is not None}
    check_preprocessing(preprocessing)
    labels, remark = read_labels(labels_file) if labels_file else None, ""
    tensors = pretrained.checkpoint(file)
    num_classes = len(tensors["fc.bias"])
    if labels is None:
        labels = [f"class {index}" for index in range(num_classes)]
        remark = "Its classes have no names: --labels FILE, with one name a line, gives them."
    if len(labels) != num_classes:
        raise ExportError(f"{labels_file} has {len(labels)} labels for {num_classes} classes: one for each, please")
    return Export(tensors, f"checkpoint {file.name}", labels, preprocessing, remark)


def read_labels(file: Path) -> list[str]:
    """Return the class names in a UTF-8 text file, one a line, in the order of the classes."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ExportError(f"{file} is not UTF-8 text: save the class names as UTF-8, one a line") from None
    labels = [line.strip() for line in text.rstrip().split("\n")]
    if "" in labels:
        raise ExportError(f"{file}, line {labels.index('') + 1}: a class name is missing")
    return labels


def from_auto(out: Path) -> Export:
    """Pretrained weights, else the demo model. Intact weights in `out` give way to pretrained ones only."""
    try:
        return from_torchvision()
    except ExportError as error:
        if present := intact(out):
            raise ExportError(f"{out} keeps its weights ({present['source']}); no pretrained ones: {error}") from None
        remark = f"This is the small model of our own. There are better ones, torchvision's, but {error}"
        return from_demo()._replace(remark=remark)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line; its `export` is a function of itself that gives an Export."""
    places = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)  # before SOURCE or after it
    places.add_argument(
        "--out", type=Path, metavar="FILE", help="(default: the repository's weights/resnet50.safetensors)"
    )
    places.add_argument("--force", action="store_true", help="replace a file that is already there")
    parser = argparse.ArgumentParser(parents=[places], description=__doc__.partition("\n")[0],
                                     epilog="`SOURCE --help` lists the options of a source.")  # fmt: skip
    parser.set_defaults(out=DEFAULT_OUT, force=False, name="auto", export=lambda args: from_auto(args.out))
    sources = parser.add_subparsers(dest="name", metavar="SOURCE", title="sources")

    def source(name, summary, export):
        added = sources.add_parser(name, parents=[places], help=summary, description=summary)
        added.set_defaults(export=export)
        return added.add_argument

    source("auto", "the default: pretrained weights, else the demo model; says which", lambda args: from_auto(args.out))
    option = source("torchvision", "pretrained weights, downloaded (98 MB)", lambda args: from_torchvision(args.tag))
    option("--tag", choices=TAGS, default=TAGS[0], help="which training of them (default: %(default)s)")
    option = source("demo", "the small model of our own, or another packed one", lambda args: from_demo(args.file))
    option("file", type=Path, nargs="?", help="what training/train.py packed (default: the one in weights/demo)")
    option = source("synthetic", "random weights, the same for one seed on every machine",
                    lambda args: from_synthetic(args.seed, args.num_classes))  # fmt: skip
    option("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    option("--num-classes", type=int, default=1000, metavar="N", help="(default: %(default)s)")
    option = source("checkpoint", "a ResNet-50 state dict of your own, with any number of classes",
                    lambda args: from_checkpoint(args.file, args.labels, resize=args.resize, crop=args.crop,
                                                 mean=args.mean, std=args.std))  # fmt: skip
    option("file", type=Path, help="a state dict: from torch.save(model.state_dict(), FILE), or .safetensors")
    option("--labels", type=Path, metavar="FILE", help="class names, one a line, UTF-8 (default: class 0 ...)")
    option("--resize", type=int, metavar="N", help="a picture's shorter side before the crop (default: 256)")
    option("--crop", type=int, metavar="N", help="side of the square that the network sees (default: 224)")
    for name, what in (("mean", "subtracted from pixels of 0 ... 1"), ("std", "then divided by")):
        option(f"--{name}", type=float, nargs=3, metavar=("R", "G", "B"), help=f"{what} (default: ImageNet's)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = parse_arguments(argv)
    try:
        refuse_to_replace(args.out, args.force)  # before a download, not after it
        tensors, source, labels, preprocessing, remark = args.export(args)
        write_weights(args.out, tensors, source=source, labels=labels, preprocessing=preprocessing, force=args.force)
    except AlreadyThere as kept:
        print(kept, file=sys.stdout if args.name == "auto" else sys.stderr)
        return int(args.name != "auto")
    except (ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    print(f"wrote {args.out}: {source}, {len(labels)} classes")
    if remark:
        print(remark)
    earlier = args.out.with_suffix("")
    if (earlier / "manifest.json").is_file():
        print(f"{earlier} holds weights of the earlier format, which nothing reads any more: you can delete it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
