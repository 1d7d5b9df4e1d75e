"""With trained weights, does every version see what is in a picture?  python -m bench.verify --help

Photographs of scikit-image, each with the ImageNet classes of which one must be among the top five.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

from bench.inputs import WEIGHTS
from common.versions import ROOT, VERSIONS, named
from common.weights_file import intact

RIGHT = {
    "chelsea.png": {"tabby", "tiger cat", "Egyptian cat"},
    "coffee.png": {"espresso", "cup", "coffee mug"},
    "rocket.jpg": {"missile", "projectile", "space shuttle"},
}


def main(argv: list[str] | None = None) -> int:
    """Print one line for each version and picture; return 0 if all are right, or if there is nothing to check."""
    parser = argparse.ArgumentParser("python -m bench.verify", description=__doc__.partition("  ")[0])
    parser.add_argument("versions", nargs="*", type=partial(named, VERSIONS), default=VERSIONS, metavar="VERSION")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, metavar="FILE", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    weights = arguments.weights
    if not (manifest := intact(weights)):
        parser.error(f"{weights} holds no intact weights; common/export_weights.py makes some")
    if not manifest["source"].startswith(("torchvision", "demo")):
        print(f"nothing to check: {weights.name} does not know ImageNet; `make weights` fetches weights that do")
        return 0
    import skimage.data  # only now: it is large

    pictures, wrong = [Path(skimage.data.__file__).parent / name for name in RIGHT], 0
    for version in arguments.versions:
        command = [sys.executable, ROOT / version / "infer.py", *pictures, "--json", "--weights", weights]
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        records = {Path(record["picture"]).name: record for record in map(json.loads, lines)}
        for name, right in RIGHT.items():
            seen = [found["label"] for found in records.get(name, {}).get("predictions", [])]
            wrong += not right & set(seen)
            verdict = "right" if right & set(seen) else "WRONG"
            print(f"{version:14} {name:12} {verdict} {', '.join(seen) or 'no answer'}", flush=True)
    print(f"{wrong} wrong" if wrong else "all right")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
