"""Fetch, convert or make up the weights of a ResNet-50, and write them where the six versions read them.

    python common/export_weights.py                       the best that can be had here
    python common/export_weights.py torchvision           torchvision's pretrained weights
    python common/export_weights.py checkpoint my.pth     a fine-tuned ResNet-50 of your own
    python common/export_weights.py demo                  the small model of our own, 200 classes
    python common/export_weights.py synthetic             random weights, for timing and tests

weights/README.md describes the sources and the files. Only `torchvision` and `checkpoint` need PyTorch.
"""

import argparse
import signal
import sys
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, Python looks beside this file only

from common import pretrained  # noqa: E402
from common.architecture import expected_shapes  # noqa: E402
from common.errors import AlreadyThere, ExportError  # noqa: E402
from common.packed import unpack  # noqa: E402
from common.synthetic import synthetic  # noqa: E402
from common.weights_on_disk import (  # noqa: E402
    FORMAT,
    IMAGENET_V1,
    check_labels,
    check_preprocessing,
    intact,
    refuse_to_replace,
    write_weights,
)

__all__ = ["ExportError", "expected_shapes", "main", "synthetic", "write_weights"]

DEFAULT_OUT = ROOT / "weights" / "resnet50"
DEMO = ROOT / "weights" / "demo" / "resnet50.npz"
TAGS = ("IMAGENET1K_V2", "IMAGENET1K_V1")

Export = namedtuple("Export", "tensors source labels preprocessing remark")


def from_torchvision(tag=TAGS[0]):
    """torchvision's pretrained weights, with ImageNet's labels and the preprocessing they expect."""
    tensors, labels, preprocessing = pretrained.pretrained(tag)
    return Export(tensors, f"torchvision {tag}", labels, preprocessing, "")


def from_demo(file=None):
    """The small model of our own, 200 classes of ImageNet, or another that weights/demo/train.py packed."""
    tensors, labels, size = unpack(file or DEMO)
    source = f"packed {Path(file).name}" if file else "demo"
    # A crop as large as the resized picture: it was trained on whole ones.
    return Export(tensors, source, labels, IMAGENET_V1 | {"resize": size, "crop": size}, "")


def from_synthetic(seed=0, num_classes=1000):
    """Random weights: good for timing and for tests."""
    tensors = synthetic(seed, num_classes)
    labels = [f"class {index}" for index in range(num_classes)]
    return Export(tensors, f"synthetic seed {seed}", labels, IMAGENET_V1,
                  "These weights are random: what the network predicts with them means nothing. Pretrained "
                  "ones: python common/export_weights.py torchvision --force (needs PyTorch and a network)")


def from_checkpoint(file, labels_file=None, **changes):
    """A user's own state dict. changes: what differs from IMAGENET1K_V1's preprocessing."""
    preprocessing = IMAGENET_V1 | {key: value for key, value in changes.items() if value is not None}
    check_preprocessing(preprocessing)
    labels = read_labels(labels_file) if labels_file else None
    tensors = pretrained.checkpoint(file)
    num_classes = len(tensors["fc.bias"])
    remark = ""
    if labels is None:
        labels = [f"class {index}" for index in range(num_classes)]
        remark = "Its classes have no names: --labels FILE, with one name a line, gives them."
    try:
        check_labels(labels, num_classes)
    except ExportError as error:
        raise ExportError(f"{labels_file} has {error}") from None
    return Export(tensors, f"checkpoint {Path(file).name}", labels, preprocessing, remark)


def read_labels(file):
    """Return the class names in a UTF-8 text file, one a line, in the order of the classes."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ExportError(f"cannot read {file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ExportError(f"{file} is not UTF-8 text: save the class names as UTF-8, one a line") from None
    labels = [line.strip() for line in text.rstrip().split("\n")]
    if "" in labels:
        raise ExportError(f"{file}, line {labels.index('') + 1}: a class name is missing")
    return labels


def from_auto(out):
    """The best source that works here. Intact weights in `out` give way to pretrained ones only."""
    for source in (from_torchvision, from_demo, from_synthetic):
        if source is not from_torchvision and (present := intact(out)) and present["format"] == FORMAT:
            raise ExportError(f"{out} keeps its intact weights ({present.get('source')})")
        try:
            return source()
        except ExportError as error:
            print(f"no {source.__name__.removeprefix('from_')} weights: {error}", file=sys.stderr)
    raise AssertionError("synthetic weights can always be made")


def parse_arguments(argv):
    """Return the command line as a namespace; its `export` turns it into an Export."""
    parser = argparse.ArgumentParser(parents=[_places()], description=__doc__.partition("\n")[0],
                                     epilog="`SOURCE --help` lists the options of a source.")
    sources = parser.add_subparsers(dest="name", metavar="SOURCE", title="sources")
    parser.set_defaults(out=DEFAULT_OUT, force=False, name="auto", export=lambda args: from_auto(args.out))

    def source(name, summary, export):
        added = sources.add_parser(name, parents=[_places()], help=summary, description=summary)
        added.set_defaults(export=export)
        return added

    source("auto", "the default: pretrained weights, else the demo model, else synthetic ones; says which",
           lambda args: from_auto(args.out))
    source("torchvision", "torchvision's pretrained weights, downloaded (98 MB)",
           lambda args: from_torchvision(args.tag)).add_argument(
        "--tag", choices=TAGS, default=TAGS[0], help="which training of them (default: %(default)s)")
    source("demo", "the small model of our own, 200 classes, or another packed one; needs NumPy alone",
           lambda args: from_demo(args.file)).add_argument(
        "file", type=Path, nargs="?", metavar="FILE",
        help="what weights/demo/train.py packed (default: weights/demo/resnet50.npz)")
    _add_checkpoint_options(source(
        "checkpoint", "a ResNet-50 state dict of your own, with any number of classes",
        lambda args: from_checkpoint(args.file, args.labels, resize=args.resize, crop=args.crop,
                                     mean=args.mean, std=args.std)))
    added = source("synthetic", "random weights, the same for one seed on every machine; needs NumPy alone",
                   lambda args: from_synthetic(args.seed, args.num_classes))
    added.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    added.add_argument("--num-classes", type=int, default=1000, metavar="N", help="(default: %(default)s)")
    return parser.parse_args(argv)


def _places():
    """The options that every source has, before its name or after it."""
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="directory to write (default: weights/resnet50 in this repository)")
    parser.add_argument("--force", action="store_true", help="replace intact weights that are already there")
    return parser


def _add_checkpoint_options(parser):
    parser.epilog = "The defaults for pictures are those of torchvision's IMAGENET1K_V1."
    parser.add_argument("file", type=Path, metavar="FILE", help="from torch.save(model.state_dict(), FILE)")
    parser.add_argument("--labels", type=Path, metavar="FILE",
                        help="class names in the order of the classes, one a line, UTF-8 (default: class 0 ...)")
    for option, what in (("resize", "a picture's shorter side before the crop"),
                         ("crop", "side of the square that the network sees")):
        parser.add_argument(f"--{option}", type=int, metavar="N", help=f"{what} (default: {IMAGENET_V1[option]})")
    for option, what in (("mean", "subtracted from pixels scaled to 0 ... 1"), ("std", "then divided by")):
        values = " ".join(map(str, IMAGENET_V1[option]))
        parser.add_argument(f"--{option}", type=float, nargs=3, metavar=("R", "G", "B"),
                            help=f"{what} (default: {values})")


def main(argv=None):
    """Run the command line; return the exit status."""
    args = parse_arguments(argv)
    try:
        refuse_to_replace(args.out, args.force)
        export = args.export(args)
        write_weights(args.out, export.tensors, source=export.source, labels=export.labels,
                      preprocessing=export.preprocessing, force=args.force)
    except AlreadyThere as error:
        if args.name != "auto":
            return _fail(error)
        print(error)
        return 0
    except ExportError as error:
        return _fail(error)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}")
    except MemoryError:
        return _fail("not enough memory")
    except KeyboardInterrupt:
        _fail(f"interrupted; {args.out} is as it was before")
        return 130
    print(f"wrote {args.out}: {export.source}, {len(export.labels)} classes")
    if export.remark:
        print(export.remark)
    return 0


def _fail(reason):
    print(f"error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it tidies up, as after Ctrl-C
    sys.stdout.reconfigure(errors="backslashreplace")  # a directory's name may be no valid text
    sys.exit(main())
