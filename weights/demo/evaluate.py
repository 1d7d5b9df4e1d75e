"""Accuracy of a version on labelled pictures: the share of which it names right, at once or among five names.

    python weights/demo/evaluate.py --data tiny-imagenet-200
    python weights/demo/evaluate.py v3 --data my_pictures --weights weights/mine --count 200

The version is run as a reader would run it, by its infer.py, on the validation pictures that weights/demo/pictures.py
finds. Names are compared, not numbers: the weights may know more classes than the pictures have.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.progress import track

from pictures import DataError, Pictures, find

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = sorted(path.parent.name for path in ROOT.glob("v*/infer.py"))


def evaluate(version, pictures, names, weights):
    """Return {"top1": share, "top5": share, "pictures": count, "weights": source}. Raises DataError."""
    right = {"top1": 0, "top5": 0}
    with tempfile.TemporaryDirectory() as directory:
        lay_out(pictures.files, Path(directory))
        records = run(version, directory, weights)
        for record in track(records, version, len(pictures.files), transient=True):
            number = int(Path(record["picture"]).stem)
            if "error" in record:
                raise DataError(record["error"].replace(record["picture"], str(pictures.files[number])))
            name = names[pictures.labels[number]]
            found = [prediction["label"] for prediction in record["predictions"]]
            right["top1"] += found[0] == name
            right["top5"] += name in found
    shares = {key: count / len(pictures.files) for key, count in right.items()}
    return shares | {"pictures": len(pictures.files), "weights": record["weights"]}


def lay_out(files, directory):
    """Put the pictures into a directory, named by their numbers."""
    for number, file in enumerate(files):
        if isinstance(file, Path):
            (directory / f"{number}{file.suffix}").symlink_to(file.resolve())
        else:
            (directory / f"{number}.jpg").write_bytes(file.getvalue())


def run(version, directory, weights):
    """Yield what infer.py says of each picture. Raises DataError if it stops before the last."""
    command = [sys.executable, ROOT / version / "infer.py", directory, "--json", "--top", "5", "--weights", weights]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            yield from map(json.loads, process.stdout)
            status = process.wait()
        finally:
            process.kill()
        if status:
            errors.seek(0)
            raise DataError(errors.read().strip().rpartition("\n")[2].removeprefix("error: "))


def read_manifest(weights):
    """Return (class names, side of the pictures). Raises DataError."""
    try:
        manifest = json.loads((weights / "manifest.json").read_text(encoding="utf-8"))
        return manifest["labels"], manifest["preprocessing"]["crop"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"no weights in {weights} ({error}); common/export_weights.py makes some") from None


def store(result, path):
    """Write the result into a JSON list of results, in place of an earlier one of the same version."""
    try:
        others = [other for other in json.loads(path.read_text()) if other["version"] != result["version"]]
    except FileNotFoundError:
        others = []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no results ({error}); choose another --out") from None
    path.write_text(json.dumps(sorted([*others, result], key=lambda r: r["version"]), indent=1) + "\n")


def sample(pictures, count):
    """Return `count` of the pictures, the same every time, or all if they are fewer."""
    chosen = random.Random(0).sample(range(len(pictures.files)), min(count, len(pictures.files)))
    return Pictures([pictures.files[number] for number in chosen], [pictures.labels[number] for number in chosen])


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("version", nargs="?", default="v6", help="v1 to v6 (default: v6)")
    parser.add_argument("--data", type=Path, required=True, metavar="PATH",
                        help="tiny-imagenet-200, or a directory of class directories")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights" / "resnet50", metavar="DIR",
                        help="default: weights/resnet50")
    parser.add_argument("--count", type=int, metavar="N", help="of the pictures, chosen at random (default: all)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="add the result to a JSON file, too")
    arguments = parser.parse_args()
    matching = [version for version in VERSIONS if arguments.version in (version, version.partition("_")[0])]
    if not matching:
        parser.error(f"there is no version {arguments.version!r}; choose from {', '.join(VERSIONS)}")
    if arguments.count is not None and arguments.count < 1:
        parser.error("--count must be 1 or more")
    arguments.version = matching[0]
    return arguments


def main():
    arguments = parse_arguments()
    try:
        _, pictures, names = find(arguments.data)
        known, size = read_manifest(arguments.weights)
        if strange := [name for name in names if name not in known]:
            raise DataError(f"the weights know no {strange[0]!r} ({len(strange)} of {len(names)} classes are strange "
                            "to them): evaluate them on pictures of their own classes")  # fmt: skip
        if arguments.count:
            pictures = sample(pictures, arguments.count)
        result = {"version": arguments.version, "size": size}
        result |= evaluate(arguments.version, pictures, names, arguments.weights)
        print("{version}, {weights}, {size}x{size}: top-1 {top1:.2%}, top-5 {top5:.2%} of {pictures:,} pictures".format(
            **result))  # fmt: skip
        if arguments.out:
            store(result, arguments.out)
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
