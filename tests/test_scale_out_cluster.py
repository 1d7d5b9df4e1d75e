"""Many pictures on real Ray: two nodes with a core each. A node dies, a worker, the driver; the disk fills."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.scale_out_support import (
    NOTE,
    assert_all_ended,
    assert_same,
    begin,
    inferred,
    make_pictures,
    mark,
    marked_processes,
    wait_for_files,
    written,
)
from tests.test_scale_out import add_bad


@pytest.fixture(scope="module", autouse=True)
def nothing_left():
    yield
    assert_all_ended()


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes with one core and the smallest object store each; the first one is the head."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("TEST_OF_RAY", mark())
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        cluster.second = cluster.add_node(**node)
        yield cluster
    finally:
        cluster.shutdown()
        assert_all_ended()


def finish(process):
    stdout, stderr = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def workers():
    return [process for process in marked_processes() if process.name().startswith("ray::MapWorker")]


def test_a_node_killed_in_the_middle(cluster, tmp_path, rng, demo_weights):
    """Damaged pictures among good ones, two nodes, one of which dies: each picture once, as infer.py says.

    They are a list of names as seen from where the command is started; Ray's processes are where `ray start` ran.
    """
    source, out = tmp_path / "pictures", tmp_path / "out"
    good, bad = make_pictures(source, rng, 160), add_bad(source)
    (tmp_path / "list.txt").write_text("\n".join(os.path.relpath(path, tmp_path) for path in [*good, *bad]))
    process = begin("list.txt", "out", demo_weights, "--address", cluster.address, cwd=tmp_path)
    wait_for_files(out, 6, process)
    cluster.remove_node(cluster.second, allow_graceful=False)
    done = finish(process)
    assert done.returncode == 1 and "162 pictures in " in done.stdout, done.stderr
    assert "\n2 could not be classified" in done.stdout and "were done before" not in done.stdout
    rows = written(out)
    assert sorted(rows) == sorted([*good, *bad])
    some = [*good[::20], *bad]
    assert_same({path: rows[path] for path in some}, inferred(demo_weights, *some))


@pytest.mark.exhaustive
def test_a_worker_that_dies(cluster, tmp_path, rng, demo_weights):
    source, out = tmp_path / "pictures", tmp_path / "out"
    paths = make_pictures(source, rng, 240)
    process = begin(source, out, demo_weights, "--address", cluster.address)
    for files in (4, 10, 16):
        wait_for_files(out, files, process)
        workers()[0].kill()
    done = finish(process)
    assert done.returncode == 0 and "240 pictures in " in done.stdout, done.stderr
    assert sorted(written(out)) == paths


@pytest.mark.exhaustive
def test_a_disk_that_fills(cluster, tmp_path, rng, demo_weights):
    """The job ends with one line; with more room it goes on."""
    out = tmp_path / "out"
    out.mkdir()
    paths = make_pictures(tmp_path / "pictures", rng, 160)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", out], capture_output=True).returncode:
        pytest.skip("no tmpfs may be mounted here; test_scale_out_pictures.py fills a disk that is not one")
    try:
        full = classify_on(cluster, tmp_path / "pictures", out, demo_weights)
        assert full.returncode == 1 and full.stdout == ""
        assert (
            full.stderr
            == f"{NOTE}error: {out}: No space left on device; what is written stays, the same command goes on\n"
        )
        wait_until(lambda: not workers())
        some = written(out)
        assert 8 <= len(some) < 160 and not list(out.glob(".*"))
        subprocess.run(["mount", "-o", "remount,size=10m", out], check=True)
        done = classify_on(cluster, tmp_path / "pictures", out, demo_weights)
        assert done.returncode == 0 and f"\n{len(some)} were done before" in done.stdout, done.stderr
        assert sorted(written(out)) == paths
    finally:
        subprocess.run(["umount", out], check=True)


def classify_on(cluster, *arguments):
    return finish(begin(*arguments, "--address", cluster.address))


def wait_until(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.exhaustive
def test_the_driver_killed_again_and_again(cluster, tmp_path, rng, demo_weights):
    """The cluster outlives each driver, and so may its workers for a while: still nothing is there twice."""
    source, out = tmp_path / "pictures", tmp_path / "out"
    paths = make_pictures(source, rng, 320)
    for files in (3, 10, 17):
        process = begin(source, out, demo_weights, "--address", cluster.address)
        wait_for_files(out, files, process)
        os.killpg(process.pid, signal.SIGKILL)
        finish(process)
    done = classify_on(cluster, source, out, demo_weights)
    assert done.returncode == 0, done.stderr
    assert sorted(written(out)) == paths


@pytest.mark.exhaustive
def test_memory_does_not_grow_with_the_pictures(cluster, tmp_path, rng, demo_weights):
    """3000 pictures of 150 KB pass a worker of one core, and an object store of 80 MB: no process takes 600 MB."""
    (path,) = make_pictures(tmp_path / "pictures", rng, 1)
    content = Path(path).read_bytes() + bytes(150 * 1024)  # what follows a JPEG's end is not looked at
    pq.write_table(pa.table({"bytes": [content] * 3000}), tmp_path / "big.parquet", row_group_size=64)
    process = begin(tmp_path / "big.parquet", tmp_path / "out", demo_weights, "--address", cluster.address)
    most = 0
    while process.poll() is None:
        for one in marked_processes():
            try:
                if one.pid == process.pid or one.name().startswith("ray::"):
                    most = max(most, one.memory_full_info().uss)
            except psutil.Error:
                pass
        time.sleep(0.3)
    done = finish(process)
    assert done.returncode == 0 and len(written(tmp_path / "out")) == 3000, done.stderr
    assert most < 600 * 2**20
