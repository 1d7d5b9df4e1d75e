"""How many frames a second versions 8 and 7 label, of a film made for it: python extras/play/measure.py [--seconds 10]

Writes results/<processor>.json and the table in README.md. On a quiet machine; two minutes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from statistics import median

import cv2

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, Python looks beside this file only

from bench.machine import machine_info, slug
from common.marked import fill

RESULTS, README = HERE / "results", HERE / "README.md"
NAMES = ("v8_int8", "v7_winograd")
WIDTH, HEIGHT, RATE = 1280, 720, 25


def make_clip(path: Path, seconds: int) -> None:
    """A slow pan over the three sample pictures, HEIGHT lines at RATE frames a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), RATE, (WIDTH, HEIGHT))
    pictures = sorted((ROOT / "samples").glob("*.jpg"))
    for number in range(count := seconds * RATE):
        picture, share = divmod(number * len(pictures) / count, 1)
        wide = cv2.resize(cv2.imread(str(pictures[int(picture)])), (2 * WIDTH, 2 * HEIGHT))
        x, y = int(share * WIDTH), int(share * HEIGHT)
        writer.write(wide[y : y + HEIGHT, x : x + WIDTH])
    writer.release()


def label(name: str, directory: Path, *options: str) -> dict:
    """Run video.py on the clip; what it says."""
    files = [directory / "clip.mp4", "--out", directory / "labelled.mp4", "--weights", directory / "w.safetensors"]
    command = [sys.executable, HERE / "video.py", *files, "--version", name, "--json", *options]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def measure(seconds: int, rounds: int = 3) -> dict:
    """Label every frame `rounds` times, versions taking turns, then once at the clip's own pace."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        make_clip(directory / "clip.mp4", seconds)
        export = [
            sys.executable,
            ROOT / "common" / "export_weights.py",
            "synthetic",
            "--out",
            directory / "w.safetensors",
        ]
        subprocess.run(export, check=True, capture_output=True)
        speeds = {version: [] for version in NAMES}
        for _ in range(rounds):
            for version in NAMES:
                found = label(version, directory, "--every-frame")
                speeds[version].append(found["labelled"] / found["seconds"])
        live = {version: label(version, directory) for version in NAMES}
    rows = [
        {"version": v, "frames_per_second": speeds[v], "frames": live[v]["frames"], "labelled": live[v]["labelled"]}
        for v in NAMES
    ]
    return {"date": str(date.today()), "machine": machine_info(), "size": [WIDTH, HEIGHT], "rate": RATE, "rows": rows}


def table(found: dict) -> str:
    """The README's, of a results file's contents."""
    lines = ["| version | every frame, frames/s | at the clip's pace, frames labelled |", "|:--|--:|--:|"]
    for row in found["rows"]:
        lines.append(
            f"| `{row['version']}` | {median(row['frames_per_second']):.1f} | {row['labelled']} of {row['frames']} |"
        )
    machine, (width, height) = found["machine"], found["size"]
    rounds = len(found["rows"][0]["frames_per_second"])
    lines.append(
        f"\n{width}×{height} at {found['rate']} frames a second, weights for pictures of 224×224, written to a file; "
        f"median of {rounds}. Measured on {machine['processor']}, {machine['cores']} cores, {found['date']}."
    )
    return "\n" + "\n".join(lines) + "\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="How many frames a second versions 8 and 7 label.")
    parser.add_argument("--seconds", type=int, default=10, help="length of the clip (default: %(default)s)")
    found = measure(parser.parse_args().seconds)
    for row in found["rows"]:
        row["frames_per_second"] = [round(speed, 2) for speed in row["frames_per_second"]]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{slug(found['machine'])}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    README.write_text(fill(README.read_text("utf-8"), "play:video", table(found)), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
