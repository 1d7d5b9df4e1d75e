"""Where pictures come from and answers go: directories, globs, lists, Parquet; on disk or wherever pyarrow reads."""

import contextlib
import glob
import hashlib
import io
import itertools
import os
import pickle
import re
import sqlite3
import uuid
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pyarrow.fs import FileSelector, FileSystem, FileType


class SourceError(Exception):
    """The job cannot begin or go on; the message is one line."""


class Picture(NamedTuple):
    path: str  # its name in the output
    file: str
    group: int | None = None  # of a Parquet file's row groups
    row: int | None = None  # in the group


class Store:
    """One place, a file or a directory, named by a path or by a URL such as s3://bucket/name?endpoint_override=…"""

    def __init__(self, uri: str):
        self.remote = re.fullmatch(r"(\w+://[^/?]+)/?([^?]*)(\?.*)?", uri)
        self.uri = uri if self.remote else os.path.abspath(uri)
        self.files, self.path = None, self.uri
        if self.remote:
            base, name, query = self.remote.groups(default="")
            self.files, self.path = connect(base + query)
            self.path, self.base, self.query = f"{self.path}/{name}".rstrip("/"), base, query

    def url(self, path: str) -> str:
        """The name, for this class, of a path in the same place."""
        return f"{self.base}/{path.partition('/')[2]}{self.query}" if self.remote else path

    def kind(self) -> str:
        """ "file", "directory" or "nothing"."""
        if not self.remote:
            return "directory" if os.path.isdir(self.path) else "file" if os.path.exists(self.path) else "nothing"
        kinds = {FileType.File: "file", FileType.Directory: "directory"}
        return kinds.get(self.files.get_file_info(self.path).type, "nothing")

    def open(self):
        return self.files.open_input_file(self.path) if self.remote else open(self.path, "rb")

    def walk(self) -> Iterator[str]:
        """Yield the names of all files below this directory, as `Store` takes them, each directory's sorted."""
        if not self.remote:
            for directory, directories, names in os.walk(self.path):
                directories.sort()
                yield from (os.path.join(directory, name) for name in sorted(names))
            return
        for entry in sorted(self.files.get_file_info(FileSelector(self.path)), key=lambda entry: entry.path):
            if entry.type == FileType.Directory:
                yield from Store(self.url(entry.path)).walk()
            else:
                yield self.url(entry.path)

    def prepare(self) -> None:
        """Make the directory, and remove what a killed worker left half written."""
        try:
            if self.remote:
                self.files.create_dir(self.path)
                return
            os.makedirs(self.path, exist_ok=True)
            for left in glob.glob(os.path.join(glob.escape(self.path), ".*.partial")):
                os.unlink(left)
        except OSError as error:
            raise SourceError(f"{self.uri}: {error.strerror or error}") from None

    def write(self, name: str, content: pa.Buffer) -> None:
        """Write a file of this directory, which appears whole or not at all. Raises OSError."""
        if self.remote:
            with self.files.open_output_stream(f"{self.path}/{name}") as stream:  # an object appears when it is closed
                stream.write(content)
            return
        partial = os.path.join(self.path, f".{name}.{uuid.uuid4()}.partial")
        try:
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, os.path.join(self.path, name))
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise


@cache
def connect(uri: str):
    try:
        return FileSystem.from_uri(uri)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{uri}: {error}") from None


def text(path: str) -> str:
    """A path as Parquet can hold it: a file's name may be no valid text. The query of a URL is no part of it."""
    path = path.partition("?")[0] if "://" in path else path
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def find(source: str, out: str) -> Iterator[Picture]:
    """Yield the pictures of a source one by one; what lies in `out` is none. Raises SourceError."""
    for file in find_files(source):
        if text(file).startswith(f"{text(out)}/"):
            continue
        if file.partition("?")[0].lower().endswith(".parquet"):
            yield from find_rows(file)
        else:
            yield Picture(text(file), file)


def find_files(source: str) -> Iterator[str]:
    store, suffixes = Store(source), (*Image.registered_extensions(), ".parquet")
    path, kind = store.path, store.kind()
    try:
        if kind == "directory":
            for file in store.walk():
                if text(file).lower().endswith(suffixes):
                    yield file
        elif kind == "file" and path.lower().endswith(suffixes):
            yield source
        elif kind == "file":
            with store.open() as file:
                for line in io.TextIOWrapper(file, "utf-8-sig", "surrogateescape"):
                    if name := line.strip("\r\n"):
                        yield Store(name).uri
        elif not glob.has_magic(path):
            raise SourceError(f"{source}: there is no such file or directory")
        elif store.remote:
            start = re.match(r"[^*?\[]*/", path)[0].rstrip("/")
            for file in Store(store.url(start)).walk():
                if fnmatch(Store(file).path, path):
                    yield file
        else:
            yield from filter(os.path.isfile, glob.iglob(path, recursive=True))
    except OSError as error:
        raise SourceError(f"{source}: {error}") from None


def find_rows(file: str) -> Iterator[Picture]:
    """Yield the rows of a Parquet file, named by its column `path`, else by number. A damaged file is a picture.

    The answers of a job like this one, which may lie among the pictures, are none.
    """
    try:
        with Store(file).open() as stream:
            parquet, first = pq.ParquetFile(stream), itertools.count()
            if b"made_by" in (parquet.schema_arrow.metadata or {}):  # the answers of another job
                return
            has_path = "path" in parquet.schema_arrow.names
            for group in range(parquet.num_row_groups):
                rows = itertools.count()
                if not has_path:
                    for row in range(parquet.metadata.row_group(group).num_rows):
                        yield Picture(f"{text(file)}#{next(first)}", file, group, row)
                    continue
                for part in parquet.iter_batches(row_groups=[group], columns=["path"]):
                    for path, number in zip(part[0].to_pylist(), first):
                        name = f"{text(file)}#{number}" if path is None else str(path)
                        yield Picture(name, file, group, next(rows))
    except (OSError, pa.ArrowException):
        yield Picture(text(file), file)


def contents(pictures: list[Picture]) -> Iterator[tuple[Picture, bytes | Exception]]:
    """Yield each picture with its bytes, or with the reason why it has none."""
    for (file, group), same in itertools.groupby(pictures, lambda picture: (picture.file, picture.group)):
        if group is None:
            (picture,) = same
            try:
                with Store(file).open() as stream:
                    content = stream.read()
            except (OSError, SourceError) as error:
                content = error
            yield picture, content
        else:
            yield from parquet_contents(file, group, list(same))


def parquet_contents(file, group, pictures):
    """Yield as `contents` does the rows of one row group: a few at a time are in memory."""
    left = iter(pictures)
    try:
        with Store(file).open() as stream:
            parquet = pq.ParquetFile(stream, pre_buffer=False)
            flat = parquet.schema_arrow.empty_table().flatten().schema  # a struct's fields are named struct.field
            columns = [f.name for f in flat if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)]
            if not columns:
                raise OSError("no column of bytes")
            parts = parquet.iter_batches(16, row_groups=[group], columns=columns[:1])
            values = (value for part in parts for value in pa.table(part).flatten()[0].to_pylist())
            wanted = {picture.row for picture in pictures}
            for row, value in enumerate(values):
                if row in wanted:
                    yield next(left), OSError("no bytes") if value is None else value
                    if row == pictures[-1].row:
                        return
    except (OSError, SourceError, pa.ArrowException) as error:
        yield from ((picture, error) for picture in left)


def batches(source: str, out: str, size: int, made_by: str) -> Iterator[dict]:
    """Yield as rows the batches of pictures that `out` does not hold yet.

    A batch is named after its pictures that are not done, so that no two have a name, nor one and what is written
    already. What is known of each path is kept in a temporary file, not in memory.
    """
    known = sqlite3.connect("")
    known.execute("create table done (path primary key, error) without rowid")
    known.execute("create table seen (path primary key) without rowid")
    counts = {"old": 0, "old_errors": 0, "twice": 0}

    def row(name, pictures, failed=None):
        found, counts_before = {"batch": pickle.dumps((name, pictures)), "failed": failed}, dict(counts)
        counts.update(dict.fromkeys(counts, 0))
        return found | counts_before

    def new(picture):
        is_new = known.execute("insert or ignore into seen values (?)", picture[:1]).rowcount
        counts["twice"] += not is_new
        return is_new

    try:
        for rows in written(out, made_by):
            known.executemany("insert or ignore into done values (?, ?)", rows)
        pictures = filter(new, find(source, out))
        while batch := list(itertools.islice(pictures, size)):
            left = []
            for picture in batch:
                done = known.execute("select error from done where path = ?", picture[:1]).fetchone()
                counts["old"] += done is not None
                counts["old_errors"] += done is not None and done[0]
                left += [picture] if done is None else []
            if left:
                name = hashlib.sha256("\0".join(picture.path for picture in left).encode()).hexdigest()[:32]
                yield row(name, left)
        yield row("", [])
    except SourceError as error:
        yield row("", [], str(error))


def written(out: str, made_by: str) -> Iterator[list[tuple[str, bool]]]:
    """Yield the paths in each file of `out`, and whether they have errors. Raises SourceError."""
    for file in Store(out).walk():
        name = text(file)
        if not name.endswith(".parquet"):
            continue
        try:
            with Store(file).open() as stream:
                table = pq.read_table(stream, columns=["path", "error"])
        except (OSError, pa.ArrowException):
            raise SourceError(f"{name} is damaged; without it, its pictures are classified again") from None
        if (table.schema.metadata or {}).get(b"made_by") != made_by.encode():
            raise SourceError(f"{name} is of another version or of other weights; name another directory with --out")
        yield list(zip(table["path"].to_pylist(), table["error"].is_valid().to_pylist()))
