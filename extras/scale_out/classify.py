"""Classify more pictures than one machine takes: python extras/scale_out/classify.py SOURCE --out predictions/

Ray Data carries batches, lists of a few pictures, to the workers, and repeats a batch whose machine died. A worker
reads its pictures itself, so that none passes through Ray's object store. It writes a batch's answers as one Parquet
file that is named after the batch and appears whole: a batch done twice leaves one file. What is written is not done
again.
"""

import os

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reports nothing to its makers; before Ray is imported

import argparse
import contextlib
import fcntl
import hashlib
import logging
import pickle
import socket
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
PLACES = [str(ROOT), str(ROOT / "extras" / "scale_out")]
sys.path[:0] = PLACES

from pictures import Picture, SourceError, Store, batches, contents, find

from common.machine import available_cores
from common.named_bytes import NamedBytes
from common.versions import VERSIONS, load_version, named

THREADS = 1  # of a worker: what Ray reserves for it, what our network uses and what a BLAS may use
TOP = 5
SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "classes": pa.list_(pa.int32()),
        "labels": pa.list_(pa.string()),
        "probabilities": pa.list_(pa.float32()),
        "latency_ms": pa.float64(),
        "error": pa.string(),
    }
)


class Worker:
    """One model with one thread. Called with a row that holds a batch, it returns a row of counts.

    made_by: version and weights; stored in each file, so that no other run goes on from it.
    """

    def __init__(self, version: str, weights: str, out: str, made_by: str):
        self.version, self.out, self.failed = load_version(version), Store(out), None
        self.schema = SCHEMA.with_metadata({"made_by": made_by})
        self.reader = ThreadPoolExecutor(1)
        try:
            self.manifest = self.version.weights.read_manifest(weights)
            with once_a_machine(self.version) as directory:
                share_weights(self.version, directory)
                size = self.manifest["preprocessing"]["crop"]
                self.model = self.version.resnet50.ResNet50(weights, image_size=size, threads=THREADS)
        except Exception as error:  # the driver shows it as one line; raised here it would be Ray's to repeat
            self.failed = f"a worker cannot start: {error}"

    def __call__(self, row: dict) -> dict:
        began, rows = time.time(), []
        name, pictures = pickle.loads(row["batch"])
        failed = row["failed"] or self.failed
        if pictures and not failed:
            rows = [self.classify(picture, content) for picture, content in self.ahead(contents(pictures))]
            table = pa.Table.from_pylist(rows, self.schema)
            buffer = pa.BufferOutputStream()
            pq.write_table(table, buffer)
            try:
                self.out.write(f"{name}.parquet", buffer.getvalue())
            except OSError as error:
                failed = f"{self.out.uri}: {error.strerror or error}; what is written stays, the same command goes on"
        errors = row["old_errors"] + sum(row["error"] is not None for row in rows)
        worker = f"{os.uname().nodename} {os.getpid()}"
        counts = {"pictures": len(rows), "errors": errors, "old": row["old"], "twice": row["twice"]}
        return counts | {"failed": failed, "worker": worker, "began": began, "ended": time.time()}

    def ahead(self, items):
        """Yield the items; the next one is read while the network is busy with this one."""
        future = self.reader.submit(next, items, None)
        while item := future.result():
            future = self.reader.submit(next, items, None)
            yield item

    def classify(self, picture: Picture, content: bytes | Exception) -> dict:
        """Return the row of one picture: what `infer.py` says of it."""
        try:
            if isinstance(content, Exception):
                reason = " ".join(str(content).split())
                raise self.version.image.ImageError(f"{picture.path}: not a readable picture ({reason})")
            found = self.version.infer.classify(NamedBytes(content, picture.path), self.model, self.manifest, TOP)
        except self.version.image.ImageError as error:
            return {"path": picture.path, "error": str(error)}
        columns = {"classes": "class", "labels": "label", "probabilities": "probability"}
        best = {column: [entry[key] for entry in found["predictions"]] for column, key in columns.items()}
        return {"path": picture.path, **best, "latency_ms": found["latency_ms"], "error": None}


@contextlib.contextmanager
def once_a_machine(version):
    """Let one worker of a machine in at a time: the first one compiles and packs, the others find it done."""
    directory = version.compiler.cache_directory() if os.environ.get("RESNET50_CACHE") != "" else None
    with open(directory / "lock", "w") if directory else contextlib.nullcontext() as lock:
        if lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory


def share_weights(version, directory: Path | None) -> None:
    """Let the version's network map its packed weights from a file beside the compiled code, made by the first worker.

    All workers of a machine then share one copy of them in memory.
    """

    class Shared(version.resnet50.WeightPool):
        def __init__(self, weights_file, steps, *rest):
            stat, sources = os.stat(weights_file), sorted(version.directory.glob("*.py"))
            key = repr((os.path.realpath(weights_file), stat.st_size, stat.st_mtime_ns, rest)).encode()
            key = hashlib.sha256(b"\0".join([key, *(path.read_bytes() for path in sources)])).hexdigest()[:32]
            kept = directory / f"weights-{key}.npy"
            if not kept.exists():
                super().__init__(weights_file, steps, *rest)
                unfinished = kept.with_suffix(f".{uuid.uuid4()}")
                try:
                    with open(unfinished, "wb") as file:
                        np.save(file, self.array)
                    unfinished.replace(kept)
                except OSError:  # a full disk: this worker has its own copy
                    unfinished.unlink(missing_ok=True)
                    return
            self.array = np.load(kept, mmap_mode="r")

    if directory:
        version.resnet50.WeightPool = Shared


def start(address: str | None) -> int:
    """Start Ray on this machine, or join the cluster at `address`; return how many workers there is room for."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Ray's C++ says there what its log files have as well
    import ray

    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS))
    # In Ray's processes glibc gives each decoded picture's memory back: 790 page faults a picture, 5 % of its time.
    variables |= {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
    options = {"runtime_env": {"env_vars": variables | {"PYTHONPATH": os.pathsep.join(PLACES)}}, "log_to_driver": False}
    if address is None:
        options |= {"num_cpus": available_cores(), "include_dashboard": False, "object_store_memory": 100 * 2**20}
    try:
        if address and address != "auto":  # Ray itself tries for minutes
            host, colon, port = address.rpartition(":")
            if not colon or not port.isdecimal():
                raise ValueError("it must be auto or HOST:PORT")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address or "local", logging_level="error", **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(f"no Ray at {address}: {' '.join(str(error).split())}") from None
    return max(1, int(ray.cluster_resources().get("CPU", 1)) // THREADS)


def results(arguments: argparse.Namespace, made_by: str, workers: int):
    """Yield the workers' rows of counts as batches are done."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
    from ray.data.block import BlockMetadata

    directory = os.getcwd()

    class Batches(Datasource):
        """A row for each batch that is left to do, listed while others are under way."""

        def __init__(self, listed):
            self.listed = listed

        def get_read_tasks(self, parallelism, per_task_row_limit=None, data_context=None):
            def read():
                os.chdir(directory)  # names in a list are seen from where the command was started
                for batch in self.listed():
                    yield pa.Table.from_pylist([batch])

            return [ReadTask(read, BlockMetadata(None, None, None, None))]

        def estimate_inmemory_data_size(self):
            return None

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.target_max_block_size = 1  # byte: each row is a block, and so a task of its own
    context.enable_progress_bars = context.print_on_execution_start = False
    listed = partial(batches, arguments.source, arguments.out, arguments.batch, made_by)
    # Listed on this machine: with it the whole job would die, so no other machine's death can make the list anew.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    dataset = ray.data.read_datasource(Batches(listed), num_cpus=0, override_num_blocks=1, label_selector=here).map(
        Worker,
        fn_constructor_args=[arguments.version, str(arguments.weights), arguments.out, made_by],
        compute=ActorPoolStrategy(min_size=1, initial_size=workers, max_tasks_in_flight_per_actor=2),
        num_cpus=THREADS,
    )
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise SourceError(f"Ray gave up ({reason}); the same command goes on from what is written") from None


def work(arguments: argparse.Namespace, rows) -> int:
    """Follow the rows of counts: show progress, then a summary. Return the exit status."""
    began = shown = time.monotonic()
    total = dict.fromkeys(("pictures", "errors", "old", "twice"), 0)
    for row in rows:
        if row["failed"]:
            raise SourceError(row["failed"])
        total = {name: count + row[name] for name, count in total.items()}
        now = time.monotonic()
        if now - shown >= arguments.every:
            shown, rate = now, total["pictures"] / (now - began)
            print(f"{total['pictures']:,} pictures, {rate:.1f} a second", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    print(f"{total['pictures']:,} pictures in {seconds:.1f} s, {total['pictures'] / seconds:.1f} a second")
    if total["old"]:
        print(f"{total['old']:,} were done before")
    if total["twice"]:
        print(f"{total['twice']:,} were named more than once and classified once")
    print(f"{total['errors']:,} could not be classified: the column `error` says why; all are in {arguments.out}")
    return 1 if total["errors"] else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Classify many pictures, on one machine or on a Ray cluster.")
    parser.add_argument(
        "source", help="a directory, a glob, a Parquet file, a file that lists pictures, or a URL of such"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="a directory or s3://… for the Parquet files")
    parser.add_argument("--address", help="of a Ray cluster, or auto; without it Ray starts on this machine alone")
    parser.add_argument(
        "--version", type=partial(named, VERSIONS[5:]), default=VERSIONS[6], help="v6 to v9 (default: v7)"
    )
    weights = ROOT / "weights" / "resnet50.safetensors"
    parser.add_argument("--weights", type=Path, default=weights, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="pictures in one file (default: 64)")
    parser.add_argument(
        "--every", type=float, default=5, metavar="SECONDS", help="between lines of progress (default: 5)"
    )
    arguments = parser.parse_args()
    if arguments.batch < 1:
        parser.error(f"--batch: {arguments.batch} is not at least 1")
    arguments.weights = arguments.weights.resolve()
    return arguments


def main() -> int:
    arguments = parse()
    try:
        version = load_version(arguments.version)
        manifest = version.weights.read_manifest(arguments.weights)
        with open(arguments.weights, "rb") as file:
            made_by = f"{arguments.version} {hashlib.file_digest(file, 'sha256').hexdigest()}"
        arguments.source, arguments.out = (Store(uri).uri for uri in (arguments.source, arguments.out))
        Store(arguments.out).prepare()
        if next(find(arguments.source, arguments.out), None) is None:
            raise SourceError(f"{arguments.source}: no pictures")
        workers = start(arguments.address)
        if "note" in manifest:
            print(f"note: {manifest['note']}", file=sys.stderr)
        return work(arguments, results(arguments, made_by, workers))
    except (SourceError, version.weights.WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what is written", file=sys.stderr)
        return 130
    finally:
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()


if __name__ == "__main__":
    sys.exit(main())
