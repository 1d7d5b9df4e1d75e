"""Recognise pictures: python infer.py PICTURE [PICTURE|DIR ...] [--weights FILE] [--top 5] [--json]."""

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

from compiler import CompilerError
from image import ImageError, load_image
from ops import softmax
from resnet50 import ResNet50
from threads import ThreadsError
from weights import WeightsError, read_manifest


def main():
    default = Path(__file__).resolve().parent.parent / "weights" / "resnet50.safetensors"
    parser = argparse.ArgumentParser(description="Recognise pictures with ResNet-50.")
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="a picture, or a directory of them")
    parser.add_argument("--weights", type=Path, default=default, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes to show (default: 5)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each picture, one a line")
    parser.add_argument("--no-cache", action="store_true", help="compile, even if this was compiled before")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all cores this process may use")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no valid text
    try:
        manifest = read_manifest(arguments.weights)
        options = {"cache": not arguments.no_cache, "threads": arguments.threads}
        model = ResNet50(arguments.weights, image_size=manifest["preprocessing"]["crop"], **options)
    except (CompilerError, ThreadsError, WeightsError, ValueError) as error:
        sys.exit(f"error: {error}")
    if not arguments.json:
        print(f"weights: {manifest['source']} ({manifest['num_classes']} classes)")
    if "note" in manifest:
        print(f"note: {manifest['note']}", file=sys.stderr)
    results = [report(path, model, manifest, arguments) for path in expand(arguments.pictures)]
    return 1 if any("error" in result for result in results) else 0


def expand(paths):
    """Yield the paths, and in place of a directory the pictures in it, sorted."""
    for path in paths:
        files = path.glob("*") if os.path.isdir(path) else ()
        yield from sorted(file for file in files if file.suffix.lower() in Image.registered_extensions()) or [path]


def report(path, model, manifest, arguments):
    """Classify a picture, print the answer or why there is none, and return it as the object that --json prints."""
    try:
        result = classify(path, model, manifest, arguments.top)
    except ImageError as error:
        print(f"error: {error}", file=sys.stderr)
        result = {"picture": str(path), "error": str(error)}
    if arguments.json:
        print(json.dumps(result), flush=True)
    elif "error" not in result:
        print(f"{path} ({result['latency_ms']:.1f} ms)")
        for best in result["predictions"]:
            print(f"  {100 * best['probability']:6.2f} %  {best['label']}", flush=True)
    return result


def classify(path, model, manifest, top):
    image = load_image(path, manifest["preprocessing"])
    start = time.perf_counter()
    probabilities = softmax(model.forward(image))
    latency_ms = 1000 * (time.perf_counter() - start)
    ranked = sorted(enumerate(probabilities), key=lambda entry: -entry[1])[: max(top, 1)]
    best = [{"class": c, "label": manifest["labels"][c], "probability": float(p)} for c, p in ranked]
    return {"picture": str(path), "predictions": best, "latency_ms": latency_ms, "weights": manifest["source"]}


if __name__ == "__main__":
    sys.exit(main())
