"""What the tests of extras/scale_out share: pictures, a run of classify.py, what it wrote, and Ray processes."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

from common.versions import ROOT

CLASSIFY = [sys.executable, ROOT / "extras" / "scale_out" / "classify.py"]
NOTE = "note: our own small model, 200 classes; `make weights` fetches ImageNet's 1000\n"
BAD = {"bad text.jpg": b"no picture", "bad empty.png": b""}


def make_pictures(directory, rng, count):
    """Write `count` pictures of big random spots, in nested directories; return their paths, sorted."""
    paths = [directory / f"{number % 3}" / f"{number:04} spot.jpg" for number in range(count)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((64, 64)).save(path, quality=95)
    return sorted(map(str, paths))


def command(source, out, weights, *options):
    return list(
        map(str, [*CLASSIFY, source, "--out", out, "--weights", weights, "--batch", "8", "--every", "1000", *options])
    )


def classify(*arguments, cwd=None, **environment):
    """Run classify.py to its end, in a session of its own, and see that no process of it is left."""
    process = begin(*arguments, cwd=cwd, **environment)
    stdout, stderr = process.communicate(timeout=240)
    assert_all_ended(process)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def begin(*arguments, cwd=None, **environment):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    environment = os.environ | {"TEST_OF_RAY": mark()} | environment
    return subprocess.Popen(command(*arguments), cwd=cwd, env=environment, **options)


def mark():
    """An environment variable's value: what a test's processes inherit, and nobody else's have."""
    return f"{os.getpid()}"


def marked_processes():
    """The living processes that were started from these tests, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TEST_OF_RAY") == mark() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass
    return found


def assert_all_ended(process=None, seconds=60):
    """All processes of these tests are gone, or go within some seconds; if not they are killed, and the test fails."""
    until = time.monotonic() + seconds
    while (left := marked_processes()) and time.monotonic() < until:
        time.sleep(0.1)
    for one in left:
        with contextlib.suppress(psutil.Error):
            one.kill()
    assert not left, left


def written(out):
    """The rows of all files, {path: row}; no path may be there twice."""
    rows = [row for file in sorted(Path(out).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert not [path for path, count in Counter(row["path"] for row in rows).items() if count > 1]
    return {row["path"]: row for row in rows}


def wait_for_files(out, count, process, seconds=120):
    until = time.monotonic() + seconds
    while len(list(Path(out).glob("*.parquet"))) < count:
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)


def inferred(weights, *sources, version="v7_winograd"):
    """What infer.py prints for them, {path: record}."""
    argv = [sys.executable, ROOT / version / "infer.py", *sources, "--weights", weights, "--threads", "1", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True)
    return {record["picture"]: record for record in map(json.loads, done.stdout.splitlines())}


def assert_same(rows, records):
    """Rows that classify.py wrote are what infer.py says, to the last bit."""
    assert rows.keys() == records.keys()
    for path, record in records.items():
        row = rows[path]
        assert list(row) == ["path", "classes", "labels", "probabilities", "latency_ms", "error"]
        if "error" in record:
            assert row["error"] == record["error"]
            assert [row[name] for name in list(row)[1:5]] == [None] * 4
            continue
        best = record["predictions"]
        assert row["error"] is None and row["latency_ms"] > 0
        assert row["classes"] == [entry["class"] for entry in best] and len(best) == 5
        assert row["labels"] == [entry["label"] for entry in best]
        assert row["probabilities"] == [entry["probability"] for entry in best]
