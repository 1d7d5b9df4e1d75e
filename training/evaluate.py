"""Accuracy of versions on labelled pictures: the share of which they name right, at once or among five names.

    python training/evaluate.py --data tiny-imagenet-200
    python training/evaluate.py v1 v3 --data my_pictures --weights weights/mine.safetensors --count 200

A version is run as a reader would run it, by its infer.py, on the validation pictures that training/pictures.py
finds. Names are compared, not numbers: the weights may know more classes than the pictures have.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, Python looks beside this file only

from common.versions import VERSIONS, named  # noqa: E402
from common.weights_file import intact  # noqa: E402
from training.pictures import DataError, Labelled, find  # noqa: E402


def evaluate(version: str, pictures: Labelled, names: list[str], weights: Path) -> dict:
    """Return {"version", "size", "weights", "pictures": count, "top1": share, "top5": share}. Raises DataError.

    names: of the classes that the pictures' labels number.
    """
    size = check_classes(names, weights)
    top1 = top5 = 0
    with tempfile.TemporaryDirectory() as directory, closing(run(version, directory, weights)) as records:
        lay_out(pictures, Path(directory))
        for done, record in enumerate(records, start=1):
            if sys.stderr.isatty():
                print(f"{version}: {done} of {len(pictures)}", end="\r", file=sys.stderr)
            file, label = pictures[int(Path(record["picture"]).stem)]
            if "error" in record:
                raise DataError(record["error"].replace(record["picture"], str(file)))
            found = [prediction["label"] for prediction in record["predictions"]]
            top1 += found[0] == names[label]
            top5 += names[label] in found
    return {"version": version, "size": size, "weights": record["weights"], "pictures": len(pictures),
            "top1": top1 / len(pictures), "top5": top5 / len(pictures)}  # fmt: skip


def check_classes(names, weights):
    """Return the side of the pictures that the weights want. Raises DataError if they know not all of the names."""
    manifest = intact(weights)
    if not manifest:
        raise DataError(f"{weights} holds no intact weights; common/export_weights.py makes some")
    if strange := set(names) - set(manifest["labels"]):
        raise DataError(f"the weights have no class {min(strange)!r} ({len(strange)} of {len(names)} are missing): "
                        "evaluate them on pictures of their own classes")  # fmt: skip
    return manifest["preprocessing"]["crop"]


def lay_out(pictures, directory):
    """Put the pictures into a directory, named by their numbers."""
    for number, (file, _) in enumerate(pictures):
        if isinstance(file, Path):
            (directory / f"{number}{file.suffix}").symlink_to(file.resolve())
        else:
            (directory / f"{number}.jpg").write_bytes(file.getvalue())


def run(version, directory, weights):
    """Yield what infer.py says of each picture. Raises DataError if it fails."""
    command = [sys.executable, ROOT / version / "infer.py", directory, "--json", "--top", "5", "--weights", weights]
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            try:
                yield from map(json.loads, process.stdout)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            errors.seek(0)
            last = errors.read().strip().rpartition("\n")[2]
            told = last.startswith("error: ")
            raise DataError(last.removeprefix("error: ") if told else f"{version}: exit code {process.returncode}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("versions", nargs="*", type=partial(named, VERSIONS), default=[VERSIONS[5]], metavar="VERSION",
                        help="v1, v2, ... (default: v6)")  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, metavar="PATH",
                        help="tiny-imagenet-200, or a directory of class directories")  # fmt: skip
    parser.add_argument("--weights", type=Path, default=ROOT / "weights" / "resnet50.safetensors", metavar="FILE",
                        help="default: weights/resnet50.safetensors")  # fmt: skip
    parser.add_argument("--count", type=int, metavar="N", help="of the pictures, chosen at random (default: all)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results into a JSON file, too")
    arguments = parser.parse_args()
    if arguments.out and (arguments.out.is_dir() or not arguments.out.parent.is_dir()):
        parser.error(f"--out {arguments.out} is no place for a file")
    if arguments.count is not None and arguments.count < 1:
        parser.error("--count must be 1 or more")
    return arguments


def main():
    arguments = parse_arguments()
    line = "{version}, {weights}, {size}x{size}: top-1 {top1:.2%}, top-5 {top5:.2%} of {pictures:,} pictures"
    results = []
    try:
        others, pictures, names = find(arguments.data)
        if others:
            print(
                f"{len(pictures):,} pictures to validate with; {len(others):,} to train on are left out",
                file=sys.stderr,
            )
        if arguments.count:
            pictures = random.Random(0).sample(pictures, min(arguments.count, len(pictures)))
        for version in arguments.versions:
            results.append(evaluate(version, pictures, names, arguments.weights))
            print(line.format(**results[-1]), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
