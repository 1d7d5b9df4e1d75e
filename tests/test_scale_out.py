"""Many pictures on one machine: extras/scale_out/classify.py starts Ray itself."""

import os
import shutil
import signal
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.scale_out_support import (
    BAD,
    NOTE,
    assert_all_ended,
    assert_same,
    begin,
    classify,
    command,
    inferred,
    make_pictures,
    wait_for_files,
    written,
)


@pytest.fixture(scope="module", autouse=True)
def nothing_left():
    yield
    assert_all_ended()


def add_bad(directory):
    for name, content in BAD.items():
        (directory / name).write_bytes(content)
    return [str(directory / name) for name in BAD]


@pytest.mark.exhaustive
def test_a_directory_is_classified_as_infer_does_it_then_gone_on_with(tmp_path, rng, demo_weights):
    """Damaged pictures, a missing one, a name that is no text; then only what is new, then nothing."""
    source, out = tmp_path / "my pictures", tmp_path / "out"
    good = make_pictures(source, rng, 18)
    bad = add_bad(source)
    os.symlink("nowhere", source / "bad link.jpg")
    bad.append(str(source / "bad link.jpg"))
    (source / "notes.txt").write_text("not looked at")
    first = classify(source, out, demo_weights)
    assert first.returncode == 1 and first.stderr == NOTE, first.stderr
    assert first.stdout.startswith("21 pictures in ") and "\n3 could not be classified" in first.stdout
    records = inferred(demo_weights, *good, *bad)
    assert_same(written(out), records)

    before = {file: file.read_bytes() for file in out.glob("*.parquet")}
    shutil.copy(good[0], os.path.join(source, os.fsdecode(b"caf\xe9.jpg")))
    for left in out.glob("*"):
        (out / f".{left.name}.0.partial").write_bytes(b"half")
    second = classify(source, out, demo_weights)
    assert second.returncode == 1 and "1 pictures in " in second.stdout and "\n21 were done before" in second.stdout
    assert all(file.read_bytes() == content for file, content in before.items()) and not [*out.glob(".*")]
    rows = written(out)
    assert len(rows) == 22 and rows.pop(str(source / r"caf\xe9.jpg"))["classes"] == rows[good[0]]["classes"]
    assert_same(rows, records)


@pytest.mark.parametrize("killed_by", [pytest.param("SIGKILL"), pytest.param("SIGINT", marks=pytest.mark.exhaustive)])
def test_stopped_in_the_middle_it_goes_on(killed_by, tmp_path, rng, demo_weights):
    source, out = tmp_path / "pictures", tmp_path / "out"
    paths = make_pictures(source, rng, 160)
    process = begin(source, out, demo_weights)
    wait_for_files(out, 3, process)
    if killed_by == "SIGKILL":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does it
    stdout, stderr = process.communicate(timeout=60)
    assert_all_ended()
    if killed_by == "SIGINT":
        assert (process.returncode, stdout) == (130, "")
        assert stderr == f"{NOTE}stopped; the same command goes on from what is written\n"
    done = written(out)
    assert 24 <= len(done) < 160
    again = classify(source, out, demo_weights)
    assert again.returncode == 0, again.stderr
    assert f"{160 - len(done)} pictures in " in again.stdout and f"\n{len(done)} were done before" in again.stdout
    rows = written(out)
    assert sorted(rows) == paths and done.items() <= rows.items()
    assert not [row for row in rows.values() if row["error"]]


def test_bad_arguments_are_one_line_and_start_nothing(tmp_path, rng, demo_weights):
    (path,) = make_pictures(tmp_path / "pictures", rng, 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    cases = {
        "no such file": (tmp_path / "none", tmp_path / "out", demo_weights),
        "no pictures": (tmp_path / "empty", tmp_path / "out", demo_weights),
        "v6_threads, v7_winograd, v8_int8, v9_ozaki": (path, tmp_path / "out", demo_weights, "--version", "v1"),
        "not at least 1": (path, tmp_path / "out", demo_weights, "--batch", "0"),
        "export_weights.py": (path, tmp_path / "out", tmp_path / "none"),
        "File exists": (path, tmp_path / "file", demo_weights),
        "no Ray at": (path, tmp_path / "out", demo_weights, "--address", "127.0.0.1:1"),
    }
    for expected, arguments in cases.items():
        done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=100)
        *_, line = done.stderr.splitlines()
        assert done.returncode in (1, 2) and done.stdout == "" and expected in line and "error: " in line, done.stderr
        assert "Traceback" not in done.stderr and (done.returncode == 2 or done.stderr.count("\n") == 1), done.stderr


@pytest.mark.exhaustive
def test_results_of_another_run_are_refused(tmp_path, rng, demo_weights):
    (path,) = make_pictures(tmp_path, rng, 1)
    out = tmp_path / "out"
    out.mkdir()
    pq.write_table(pa.table({"path": ["x"], "error": ["y"]}), out / "other.parquet")
    done = classify(path, out, demo_weights)
    assert done.returncode == 1 and f"error: {out}/other.parquet is of another version" in done.stderr
    (out / "other.parquet").write_bytes(b"PAR1")
    done = classify(path, out, demo_weights)
    assert done.returncode == 1 and f"error: {out}/other.parquet is damaged" in done.stderr
