"""Recognise pictures: python infer.py PICTURE [PICTURE|DIR ...] [--weights DIR] [--top 5] [--json]."""

import os

# One BLAS thread, set before NumPy loads its BLAS: more cores are version 6's idea alone.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import json
import sys
import time
from pathlib import Path

from PIL import Image

from image import ImageError, load_image
from ops import softmax
from resnet50 import ResNet50
from weights import WeightsError, read_manifest

# Share of the multiply-adds of a 224x224 picture that is done when a stage ends.
WORK_DONE = {"stem": 0.029, "layer1": 0.192, "layer2": 0.444, "layer3": 0.802, "layer4": 1.0, "avgpool": 1.0}

# What to know about the weights that the exporter makes without a network, by the first word of their source.
NOTES = {
    "demo": "our own small model, 200 classes; `make weights` fetches ImageNet's 1000",
    "synthetic": "these weights are random numbers; the predictions mean nothing",
}


def main():
    arguments = parse_arguments()
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no valid text
    try:
        manifest = read_manifest(arguments.weights)
        model = build_model(arguments, manifest)
    except WeightsError as error:
        sys.exit(f"error: {error}")
    if not arguments.json:
        print(f"weights: {manifest['source']} ({manifest['num_classes']} classes)")
    if note := NOTES.get(manifest["source"].partition(" ")[0]):
        print(f"note: {note}", file=sys.stderr)
    failed = 0
    for picture in arguments.pictures:
        try:
            for path in expand(picture):
                failed += not report(path, model, manifest, arguments)
        except ImageError as error:
            failed += 1
            report_error(picture, error, arguments)
    return 1 if failed else 0


def parse_arguments():
    parser = argparse.ArgumentParser(description="Recognise pictures with ResNet-50.")
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="a picture, or a directory of them")
    default = Path(__file__).resolve().parent.parent / "weights" / "resnet50"
    parser.add_argument("--weights", type=Path, default=default, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--top", type=positive, default=5, metavar="N", help="classes to show (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a picture, one a line")
    return parser.parse_args()


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


def build_model(arguments, manifest):
    return ResNet50(arguments.weights, image_size=manifest["preprocessing"]["crop"])


def expand(path):
    """Return [path], or the sorted pictures in it if it is a directory. Raises ImageError if it has none."""
    if not path.is_dir():
        return [path]
    suffixes = Image.registered_extensions()
    pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
    if not pictures:
        raise ImageError(f"{path}: no pictures in this directory")
    return pictures


def report(path, model, manifest, arguments):
    """Classify the picture and print its top classes; return whether that succeeded."""
    try:
        image = load_image(path, manifest["preprocessing"])
    except ImageError as error:
        report_error(path, error, arguments)
        return False
    probe = Progress(path) if getattr(model, "shows_progress", False) else None
    start = time.perf_counter()
    logits = model.forward(image, probe)
    latency_ms = 1000 * (time.perf_counter() - start)
    probabilities = softmax(logits)
    best = sorted(range(len(logits)), key=lambda c: -probabilities[c])[: arguments.top]
    predictions = [
        {"class": c, "label": manifest["labels"][c], "probability": float(probabilities[c])} for c in best
    ]
    if arguments.json:
        result = {"picture": str(path), "predictions": predictions, "latency_ms": latency_ms}
        print(json.dumps(result | {"weights": manifest["source"]}), flush=True)
    else:
        print(f"{path} ({latency_ms:.1f} ms)")
        for prediction in predictions:
            print(f"  {100 * prediction['probability']:6.2f} %  {prediction['label']}", flush=True)
    return True


def report_error(picture, error, arguments):
    if arguments.json:
        print(json.dumps({"picture": str(picture), "error": str(error)}), flush=True)
    print(f"error: {error}", file=sys.stderr)


class Progress:
    """A probe that prints how far a picture is, and the time left, on the standard error stream."""

    def __init__(self, path):
        self.start = time.perf_counter()
        print(f"{path}: working; this version takes minutes for a picture of 224x224", file=sys.stderr)

    def __call__(self, name, activation):
        elapsed = time.perf_counter() - self.start
        left = elapsed * (1 / WORK_DONE[name] - 1)
        print(f"  {name:8}{100 * WORK_DONE[name]:4.0f} %  {elapsed:4.0f} s, {left:4.0f} s left", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
