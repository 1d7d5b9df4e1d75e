"""The parent's handle on a contender's process.

Every contender runs in a process of its own: nothing it imports, caches or leaves spinning can touch another, and
its peak memory is its own. Requests and replies are pickled over a pipe; times are taken inside the process.
"""

import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing import Pipe

from common.versions import DIRECT, ROOT, VERSIONS

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
                    "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS")


class WorkerError(Exception):
    """A contender failed to start, raised or died. The message is one line."""


class Worker:
    """A running contender. A context manager; leaving it ends the process.

    name: a version's directory or a peer's name. image: (size, size, 3) float32. threads: for those that can use
    more than one; every version's BLAS has one. cache: whether compiled code may come from an earlier start.
    trace: prepare for `profile`. cores: the numbers of those that it may use, where the system can hold it to them.
    `facts`: startup_seconds, idle_memory (bytes), threads and blas, once started.
    """

    def __init__(self, name, weights_dir, image, threads=1, root=ROOT, cache=True, trace=False, cores=None):
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        blas = 1 if is_version(name, root) else threads
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(blas)) | {"PYTHONPATH": str(ROOT)}
        self._connection, theirs = Pipe()
        command = [sys.executable, "-P", "-m", "bench.child", str(theirs.fileno())]
        self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                                         stdout=self._log, stderr=self._log)
        theirs.close()
        if cores and hasattr(os, "sched_setaffinity"):  # threads that the contender starts from now on inherit it
            os.sched_setaffinity(self._process.pid, cores)
        try:
            self._send({"name": name, "weights_dir": str(weights_dir), "image": image, "threads": threads,
                        "root": str(root), "cache": cache, "trace": trace})
            self.facts = self._receive()
            self._check_blas(blas)
        except BaseException:
            self.close()
            raise

    def _check_blas(self, expected):
        for library, threads in self.facts["blas"].items():
            if threads != expected:
                raise WorkerError(f"{library} runs {threads} threads where {expected} was asked for")

    def run(self, rounds, on_progress=None, on_wait=None):
        """Run `rounds` pictures. Return (seconds of each, minor faults of each, the last logits).

        on_progress(stage): called as each stage of the network ends. on_wait(): called four times a second meanwhile.
        """
        self._send(("run", rounds, on_progress is not None))
        return self._receive(on_progress, on_wait)

    def run_for(self, duration):
        """Start running for `duration` seconds; `finish()` returns (pictures, seconds)."""
        self._send(("run_for", duration))

    def finish(self):
        return self._receive()

    def resources(self, count_allocations=True):
        """Peak memory in bytes and, if asked for, the arrays that one picture allocates and their bytes."""
        self._send(("resources", count_allocations))
        return self._receive()

    def profile(self, rounds):
        """Every layer's time; see profile.layer_times."""
        self._send(("profile", rounds))
        return self._receive()

    def pause(self):
        """Stop the process, so that no spinning thread of it takes a core from another contender."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self):
        self._process.send_signal(signal.SIGCONT)

    def close(self):
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _send(self, request):
        try:
            self._connection.send(request)
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None

    def _receive(self, on_progress=None, on_wait=None):
        while True:
            try:
                while on_wait and not self._connection.poll(0.25):
                    on_wait()
                kind, content = self._connection.recv()
            except (EOFError, ConnectionResetError):
                raise WorkerError(self._last_words()) from None
            if kind == "done":
                return content
            if kind == "error":
                raise WorkerError(" ".join(content.split()))
            if on_progress:
                on_progress(content)

    def _last_words(self):
        """Why the process is gone, as far as that can be told from outside."""
        code = self._process.wait()
        if code < 0:
            hint = " (out of memory?)" if code == -signal.SIGKILL else ""
            return f"killed by {signal.Signals(-code).name}{hint}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {code}")


def is_version(name, root=ROOT):
    """Whether `name` is one of the six versions, or a directory of `root` that looks like one."""
    return name in (*VERSIONS, *DIRECT) or os.path.isfile(os.path.join(root, name, "resnet50.py"))
