"""What Ray costs on one machine: extras/scale_out's workers, and as many processes that share a list of pictures.

`python docs/beyond_one_machine.py [WEIGHTS]` takes three minutes on two quiet cores. Both sides read and decode the
same pictures, run version 7 with one thread a process, and take turns. It writes docs/beyond_one_machine.json, and from
it the table in docs/beyond-one-machine.md.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cpuinfo
from tabulate import tabulate

from common.machine import available_cores
from common.marked import fill
from common.versions import ROOT, load_version

RESULTS, ARTICLE = ROOT / "docs" / "beyond_one_machine.json", ROOT / "docs" / "beyond-one-machine.md"
VERSION, PICTURES, BATCH, ROUNDS = "v7_winograd", 1536, 64, 3


def ray_workers(directory, weights):
    """Print a line for each batch: worker, begin, end, pictures."""
    from extras.scale_out import classify

    arguments = Namespace(source=directory, out=f"{directory}/out", batch=BATCH, version=VERSION, weights=weights)
    classify.Store(arguments.out).prepare()
    for row in classify.results(arguments, "", classify.start(None)):
        if row["pictures"]:
            print(json.dumps([row["worker"], row["began"], row["ended"], row["pictures"]]), flush=True)


def process(directory, weights, first, step):
    """The same for one process of several, which takes every `step`th picture."""
    version = load_version(VERSION)
    manifest = version.weights.read_manifest(weights)
    model = version.resnet50.ResNet50(weights, image_size=manifest["preprocessing"]["crop"], threads=1)
    paths = sorted(Path(directory).glob("*.jpg"))[int(first) :: int(step)]
    for start in range(0, len(paths), BATCH):
        began = time.time()
        batch = [version.infer.classify(path, model, manifest, 5) for path in paths[start : start + BATCH]]
        print(json.dumps([first, began, time.time(), len(batch)]), flush=True)


def rate(batches):
    """Pictures a second while all workers were at work; when that began, seconds since 1970."""
    workers = {worker for worker, *_ in batches}
    begin = max(min(began for name, began, _, _ in batches if name == worker) for worker in workers)
    end = min(max(ended for name, _, ended, _ in batches if name == worker) for worker in workers)
    inside = ((min(ended, end) - max(began, begin)) / (ended - began) * count for _, began, ended, count in batches)
    return sum(max(share, 0) for share in inside) / (end - begin), begin


def run(*commands):
    """Run the commands of one side together; return their rate, and how long they took to begin."""
    start = time.time()
    running = [
        subprocess.Popen([sys.executable, __file__, *map(str, command)], stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    lines = [line for process in running for line in process.communicate()[0].splitlines()]
    if any(process.returncode for process in running):
        sys.exit("error: a process failed; the lines above say why")
    pictures, begin = rate([json.loads(line) for line in lines if line.startswith("[")])
    return pictures, begin - start


def table(results):
    """The article's table."""
    ratio = median(ours[0] / plain[0] for plain, ours in results["rounds"])
    rows = [
        [name, *(f"{median(side[index][part] for side in results['rounds']):.1f}" for part in (0, 1))]
        for index, name in enumerate([f"{results['cores']} processes of one thread", "the same under Ray Data"])
    ]
    text = tabulate(rows, ["", "pictures/s", "at work after, s"], "pipe", disable_numparse=True)
    weights = f"{results['weights']} weights, {results['size']}x{results['size']} pixels"
    made = f"{results['pictures']} pictures a round, {len(results['rounds'])} rounds, on {results['processor']}"
    return f"\n{text}\n\nRay Data keeps {100 * ratio:.0f} % of the rate. {VERSION}, {weights}, {made}.\n\n"


def main(weights):
    cores = available_cores()
    results = {"processor": cpuinfo.get_cpu_info()["brand_raw"], "cores": cores, "pictures": PICTURES, "rounds": []}
    manifest = load_version(VERSION).weights.read_manifest(weights)
    results |= {"weights": manifest["source"], "size": manifest["preprocessing"]["crop"]}
    samples = sorted((ROOT / "samples").glob("*.jpg"))
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as directory:
            for number in range(PICTURES):
                shutil.copy(samples[number % len(samples)], f"{directory}/{number:04}.jpg")
            plain = run(*(("process", directory, weights, first, cores) for first in range(cores)))
            results["rounds"].append([plain, run(("ray_workers", directory, weights))])
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    ARTICLE.write_text(fill(ARTICLE.read_text("utf-8"), "scale-out", table(results)), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    if sys.argv[1:2] in (["process"], ["ray_workers"]):
        {"process": process, "ray_workers": ray_workers}[sys.argv[1]](*sys.argv[2:])
    else:
        main(*(sys.argv[1:] or [str(ROOT / "weights" / "resnet50.safetensors")]))
