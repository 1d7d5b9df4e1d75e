"""With trained weights, does every version see what is in a picture?  python -m bench.verify [VERSION ...]

Photographs of scikit-image, each with the ImageNet classes that count as right. One of them must be among the
top five. Weights that were not trained on ImageNet or a part of it leave nothing to check.
"""

import json
import subprocess
import sys
from pathlib import Path

from common.versions import ROOT, VERSIONS

RIGHT = {
    "chelsea.png": {"tabby", "tiger cat", "Egyptian cat"},
    "coffee.png": {"espresso", "cup", "coffee mug"},
    "rocket.jpg": {"missile", "projectile", "space shuttle"},
}


def main(names, weights=ROOT / "weights" / "resnet50"):
    """Print one line for each version and picture; return 0 if all are right, or if there is nothing to check."""
    import skimage.data

    source = json.loads((weights / "manifest.json").read_text(encoding="utf-8"))["source"]
    if not source.startswith(("torchvision", "demo")):
        print(f"nothing to check: these weights ({source}) do not know ImageNet; `make weights` fetches ones that do")
        return 0
    pictures = [Path(skimage.data.__file__).parent / name for name in RIGHT]
    wrong = 0
    for version in VERSIONS:
        if not names or any(version.startswith(name) for name in names):
            wrong += check(version, pictures, weights)
    print(f"{wrong} wrong" if wrong else "all right")
    return 1 if wrong else 0


def check(version, pictures, weights):
    """Classify the pictures with one version; return how many have no right class among their top five."""
    command = [sys.executable, ROOT / version / "infer.py", *pictures, "--json", "--weights", weights]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    seen = {Path(record["picture"]).name: record for record in map(json.loads, result.stdout.splitlines())}
    wrong = 0
    for name, right in RIGHT.items():
        labels = [prediction["label"] for prediction in seen.get(name, {}).get("predictions", [])]
        ok = bool(right & set(labels[:5]))
        wrong += not ok
        print(f"{version:14} {name:12} {'right' if ok else 'WRONG':6} {', '.join(labels) or 'no answer'}", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
