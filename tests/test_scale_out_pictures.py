"""What extras/scale_out lists and reads, without Ray: no picture is lost, none is there twice."""

import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from extras.scale_out.classify import SCHEMA, Worker
from extras.scale_out.pictures import Picture, SourceError, Store, batches, contents, find, text
from tests.scale_out_support import make_pictures

NOWHERE = "/nonexistent"


def paths(source, out=NOWHERE):
    return [picture.path for picture in find(str(source), str(out))]


def read(source):
    return {picture.path: content for picture, content in contents(list(find(str(source), NOWHERE)))}


def listed(source, out, size=4, made_by="v"):
    """The rows that `batches` gives: ([(name, paths), ...], the sum of their counts)."""
    rows = list(batches(str(source), str(out), size, made_by))
    assert not [row for row in rows if row["failed"]]
    found = [(name, [picture.path for picture in own]) for name, own in (pickle.loads(row["batch"]) for row in rows)]
    return [pair for pair in found if pair[1]], {
        key: sum(row[key] for row in rows) for key in ("old", "old_errors", "twice")
    }


def write(out, name, done, made_by="v"):
    rows = [{"path": path, "error": "bad" if bad else None} for path, bad in done]
    table = pa.Table.from_pylist(rows, SCHEMA.with_metadata({"made_by": made_by}))
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    Store(str(out)).write(f"{name}.parquet", buffer.getvalue())


def test_directories_globs_lists_and_single_pictures(tmp_path, rng, monkeypatch):
    root = tmp_path / "a [b]"
    made = make_pictures(root, rng, 7)
    (root / "notes.txt").write_text("\n".join([*made[:3], "", str(tmp_path / "none.jpg")]))
    out = root / "0" / "predictions"
    out.mkdir()
    write(out, "x", [("y", False)])
    assert paths(root, out) == made
    assert sorted(paths(f"{tmp_path}/a ?b?/**/*", out)) == sorted([*made, str(root / "notes.txt")])  # no row of `out`
    assert paths(root / "notes.txt") == [*made[:3], str(tmp_path / "none.jpg")]
    assert paths(made[0]) == made[:1]
    monkeypatch.chdir(tmp_path)
    assert sorted(paths("*/**/*[135] spot.jpg")) == [p for p in made if p[-10] in "135"]
    assert paths("a [b]/0/*.png") == []
    with pytest.raises(SourceError, match="no such file"):
        paths("none")


def test_rows_of_parquet_files(tmp_path, rng):
    made = [Path(path).read_bytes() for path in make_pictures(tmp_path / "pictures", rng, 11)]
    names = [f"picture {n}" for n in range(11)]
    source = tmp_path / "parquet"
    source.mkdir()
    plain, named, nested = (source / f"{name}.parquet" for name in "abc")
    pq.write_table(pa.table({"label": range(11), "jpeg": made}), plain, row_group_size=4)
    pq.write_table(pa.table({"path": names, "bytes": [*made[:10], None]}), named, row_group_size=3)
    pq.write_table(pa.table({"image": [{"bytes": b, "path": "no name"} for b in made]}), nested)
    assert read(plain) == {f"{plain}#{n}": content for n, content in enumerate(made)}
    assert read(nested) == {f"{nested}#{n}": content for n, content in enumerate(made)}
    found = read(named)
    assert str(found.pop(names[10])) == "no bytes" and found == dict(zip(names[:10], made))
    some = [picture for picture in find(str(plain), NOWHERE) if picture.row != 1]
    assert [content for _, content in contents(some)] == [made[n] for n in range(11) if n not in (1, 5, 9)]
    (source / "d.parquet").write_bytes(b"PAR1 but no more")
    pq.write_table(pa.table({"text": ["no bytes"]}), source / "e.parquet")
    everything = read(source)
    assert len(everything) == 3 * 11 + 2 and everything[str(source / "d.parquet")] == b"PAR1 but no more"
    assert str(everything[f"{source}/e.parquet#0"]) == "no column of bytes"


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A local S3 server's part of a URL, with the bucket `pictures`."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y", "EC2_METADATA_DISABLED": "true"}.items():
            patch.setenv(f"AWS_{name}", value)
        query = f"?scheme=http&endpoint_override={host}:{port}&region=us-east-1&allow_bucket_creation=true"
        Store(f"s3://pictures{query}").prepare()
        yield query
    server.stop()


def test_s3(s3, tmp_path, rng):
    made = make_pictures(tmp_path, rng, 7)
    store = Store(f"s3://pictures/some where{s3}")
    for path in made:
        store.write(os.path.relpath(path, tmp_path), pa.py_buffer(Path(path).read_bytes()))
    urls = [f"s3://pictures/some where/{os.path.relpath(path, tmp_path)}" for path in made]
    assert paths(store.uri) == urls
    assert paths(f"s3://pictures/some where/1/*.jpg{s3}") == [url for url in urls if "/1/" in url]
    assert paths(urls[0] + s3) == urls[:1]
    assert read(store.uri) == {url: Path(path).read_bytes() for url, path in zip(urls, made)}
    (tmp_path / "list").write_text("\n".join(f"{url}{s3}" for url in [*urls[:2], "s3://pictures/none.jpg"]))
    found = read(tmp_path / "list")
    assert list(found)[:2] == urls[:2] and isinstance(found["s3://pictures/none.jpg"], OSError)
    out = f"s3://pictures/out{s3}"
    Store(out).prepare()
    write(out, "x", [(urls[0], False)])
    left, counts = listed(store.uri, out)
    assert [path for _, own in left for path in own] == urls[1:] and counts["old"] == 1
    table = pa.BufferOutputStream()
    pq.write_table(pa.table({"bytes": [Path(path).read_bytes() for path in made]}), table)
    Store(f"s3://pictures{s3}").write("rows.parquet", table.getvalue())
    assert list(read(f"s3://pictures/rows.parquet{s3}").values()) == [Path(path).read_bytes() for path in made]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 30)), st.integers(1, 9), st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_what_is_done_and_what_is_left_is_everything_once(tmp_path_factory, numbers, size, done, bad):
    directory = tmp_path_factory.mktemp("job")
    names = [str(directory / f"{number}.jpg") for number in numbers]
    (directory / "list").write_text("\n".join(names))
    out = directory / "out"
    Store(str(out)).prepare()
    everything, counts = listed(directory / "list", out, size)
    assert [path for _, own in everything for path in own] == list(dict.fromkeys(names))
    assert counts == {"old": 0, "old_errors": 0, "twice": len(names) - len(set(names))}
    assert all(len(own) == size for _, own in everything[:-1]) and len({name for name, _ in everything}) == len(
        everything
    )
    for number in done:
        write(out, f"old{number}", [(str(directory / f"{number}.jpg"), number in bad)])
    left, counts = listed(directory / "list", out, size)
    assert [path for _, own in left for path in own] == [
        path for path in dict.fromkeys(names) if int(Path(path).stem) not in done
    ]
    assert len({name for name, _ in left}) == len(left)
    assert counts["old"] == len({*numbers} & done) and counts["old_errors"] == len({*numbers} & done & bad)


@given(st.binary(min_size=1).filter(lambda name: b"/" not in name and b"\0" not in name))
def test_any_name_becomes_text(name):
    found = text(f"/x/{os.fsdecode(name)}")
    assert found.encode("utf-8").decode("utf-8") == found and found.startswith("/x/")


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    out = tmp_path / "out"
    store = Store(str(out))
    store.prepare()

    def full(descriptor):
        assert [path.name.startswith(".") for path in out.iterdir()] == [True]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write("x.parquet", pa.py_buffer(b"x" * 1000))
    assert not [*out.iterdir()]


def test_a_full_disk_stops_the_job_with_one_line(tmp_path, rng, small_weights_file, monkeypatch):
    made = make_pictures(tmp_path / "pictures", rng, 1)
    monkeypatch.setenv("RESNET50_CACHE", str(tmp_path / "cache"))
    worker = Worker("v6_threads", str(small_weights_file), str(tmp_path), "v")
    counts = {"failed": None, "old": 0, "old_errors": 0, "twice": 0}
    row = counts | {"batch": pickle.dumps(("name", [Picture(made[0], made[0])]))}
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert (
        worker(row)["failed"] == f"{tmp_path}: No space left on device; what is written stays, the same command goes on"
    )
    monkeypatch.undo()
    done = worker(row)
    assert (done["failed"], done["pictures"], done["errors"]) == (None, 1, 0)
    assert pq.read_table(tmp_path / "name.parquet").to_pylist()[0]["path"] == made[0]


def test_workers_share_one_file_of_packed_weights(tmp_path, small_weights_file, monkeypatch):
    monkeypatch.setenv("RESNET50_CACHE", str(tmp_path / "cache"))
    one, two = (Worker("v7_winograd", str(small_weights_file), str(tmp_path), "v") for _ in range(2))
    kept, compiled = (list((tmp_path / "cache").glob(pattern)) for pattern in ("weights-*.npy", "*.so"))
    assert one.failed is None and two.failed is None and len(kept) == len(compiled) == 1
    assert os.path.samefile(two.model.weights.array.filename, kept[0]) and not two.model.weights.array.flags.writeable
    assert one.model.threads == two.model.threads == 1


def test_results_of_another_run_are_refused(tmp_path):
    (tmp_path / "list").write_text("a.jpg")
    out = tmp_path / "out"
    out.mkdir()
    for made_by, content, expected in (("w", None, "another version"), ("v", b"PAR1", "damaged")):
        write(out, "x", [("y", False)], made_by)
        if content:
            (out / "x.parquet").write_bytes(content)
        (row,) = batches(str(tmp_path / "list"), str(out), 4, "v")
        assert row["failed"].startswith(f"{out}/x.parquet is ") and expected in row["failed"]


def test_answers_written_earlier_are_never_written_over(tmp_path):
    """Two pictures done, two more found before them in the same batch, the first answers removed: nothing is lost."""
    out, source = tmp_path / "out", tmp_path / "list"
    Store(str(out)).prepare()
    for names in (["c", "d"], ["a", "b", "c", "d"]):
        source.write_text("\n".join(f"/{name}.jpg" for name in names))
        for name, own in listed(source, out, 4)[0]:
            write(out, name, [(path, False) for path in own])
    oldest, _ = sorted(out.glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns)
    oldest.unlink()
    ((name, own),) = listed(source, out, 4)[0]
    assert own == ["/c.jpg", "/d.jpg"] and not (out / f"{name}.parquet").exists()


def test_answers_of_another_job_are_no_pictures(tmp_path, rng):
    make_pictures(tmp_path / "zoo", rng, 2)
    answers = pa.table({"path": ["x", "y"]}).replace_schema_metadata({"made_by": "v6 0"})
    (tmp_path / "predictions").mkdir()
    pq.write_table(answers, tmp_path / "predictions" / "1.parquet")
    assert len(list(find(str(tmp_path), NOWHERE))) == 2


def test_rows_without_a_path_are_named_by_number(tmp_path):
    file = tmp_path / "some.parquet"
    pq.write_table(pa.table({"path": [None, "x", None], "bytes": [b"1", b"2", b"3"]}), file, row_group_size=2)
    assert [picture.path for picture in find(str(file), NOWHERE)] == [f"{file}#0", "x", f"{file}#2"]


def test_a_list_with_a_byte_order_mark(tmp_path):
    (tmp_path / "list").write_text("/a.jpg\n/b.jpg\n", encoding="utf-8-sig")
    assert [picture.path for picture in find(str(tmp_path / "list"), NOWHERE)] == ["/a.jpg", "/b.jpg"]
