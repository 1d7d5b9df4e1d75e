"""Fetch, convert or make up the weights of a ResNet-50 and write them where the six versions read them.

    python common/export_weights.py                       the best that can be had here
    python common/export_weights.py torchvision           torchvision's pretrained weights
    python common/export_weights.py checkpoint my.pth     a fine-tuned ResNet-50 of your own
    python common/export_weights.py synthetic             random weights, for timing and tests

The format on disk and every source are described in weights/README.md. Only `torchvision` and `checkpoint` need
PyTorch.
"""

import argparse
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script, this file has only its own directory on the path

from common.errors import ExportError  # noqa: E402
from common.synthetic import synthetic  # noqa: E402
from common.weights_on_disk import refuse_to_replace, write_weights  # noqa: E402

DEFAULT_OUT = ROOT / "weights" / "resnet50"
IMAGENET_V1 = {"resize": 256, "crop": 224, "interpolation": "bilinear",
               "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # what IMAGENET1K_V1 was trained with


def from_synthetic(args):
    return {"tensors": synthetic(args.seed, args.num_classes), "source": f"synthetic seed {args.seed}",
            "labels": [f"class {index}" for index in range(args.num_classes)], "preprocessing": IMAGENET_V1}


def main():
    parser = argparse.ArgumentParser()
    sub = parser.add_subparsers(dest="command", required=True)
    p = sub.add_parser("synthetic")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--num-classes", type=int, default=1000)
    p.add_argument("--out", type=Path, default=DEFAULT_OUT)
    p.add_argument("--force", action="store_true")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        refuse_to_replace(args.out, args.force)
        write_weights(args.out, **from_synthetic(args), force=args.force)
    except ExportError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
