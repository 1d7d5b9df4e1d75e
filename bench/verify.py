"""With trained weights, does every version see what is in a picture?  python -m bench.verify [VERSION ...]

Photographs of scikit-image, each with the ImageNet classes that count as right. One of them must be among the
top five. Weights that were not trained on ImageNet or a part of it leave nothing to check.
"""

import json
import subprocess
import sys
from pathlib import Path

from bench.inputs import WEIGHTS, source
from common.versions import ROOT, VERSIONS

RIGHT = {
    "chelsea.png": {"tabby", "tiger cat", "Egyptian cat"},
    "coffee.png": {"espresso", "cup", "coffee mug"},
    "rocket.jpg": {"missile", "projectile", "space shuttle"},
}


def main(names: list[str], weights: Path = WEIGHTS) -> int:
    """Print one line for each version and picture; return 0 if all are right, or if there is nothing to check."""
    import skimage.data

    if not source(weights).startswith(("torchvision", "demo")):
        print(f"nothing to check: {weights.name} does not know ImageNet; `make weights` fetches weights that do")
        return 0
    pictures = [Path(skimage.data.__file__).parent / name for name in RIGHT]
    wrong = 0
    for version in VERSIONS:
        if not names or version.startswith(tuple(names)):
            wrong += check(version, pictures, weights)
    print(f"{wrong} wrong" if wrong else "all right")
    return 1 if wrong else 0


def check(version: str, pictures: list[Path], weights: Path) -> int:
    """Classify the pictures with one version; return how many have no right class among their top five."""
    command = [sys.executable, ROOT / version / "infer.py", *pictures, "--json", "--weights", weights]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    labels = {name: [] for name in RIGHT}
    for record in map(json.loads, lines):
        labels[Path(record["picture"]).name] = [found["label"] for found in record.get("predictions", [])]
    for name, found in labels.items():
        ok = "right" if RIGHT[name] & set(found) else "WRONG"
        print(f"{version:14} {name:12} {ok} {', '.join(found) or 'no answer'}", flush=True)
    return sum(not RIGHT[name] & set(found) for name, found in labels.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
