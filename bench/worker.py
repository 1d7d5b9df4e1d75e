"""The parent's handle on a version's process.

Every version and every other engine runs in a process of its own: nothing it imports, caches or leaves spinning can
touch another, and its peak memory is its own. Requests and replies are pickled over a pipe (see child.py).
"""

import os
import signal
import sys
import tempfile
from multiprocessing import Pipe
from subprocess import DEVNULL, Popen

from bench.inputs import Inputs
from bench.peers import PEERS
from common.versions import ROOT

THREAD_VARIABLES = [f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR")]
THREAD_VARIABLES += ["VECLIB_MAXIMUM_THREADS"]  # Apple's


class WorkerError(Exception):
    """A process failed to start, raised or died. The message is one line."""


class Worker:
    """A version or engine, ready to run. A context manager; leaving it ends the process.

    name: a version's directory or a peer's name. threads: for those that can use more than one; every version's BLAS
    has one. cores: the numbers of those that it may use, where the system can hold it to them. options: child.Child's.
    `facts`, once started: startup_seconds, threads and blas, {library: threads}.
    """

    def __init__(self, name: str, inputs: Inputs, threads: int = 1, cores: list[int] | None = None, **options: object):
        self.name = name
        self._log = log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        blas = threads if name in PEERS else 1
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(blas)) | {"PYTHONPATH": str(ROOT)}
        self._connection, theirs = Pipe()
        command, streams = [sys.executable, "-P", "-m", "bench.child", str(theirs.fileno())], (DEVNULL, log, log)
        self._process = Popen(command, -1, None, *streams, env=environment, pass_fds=[theirs.fileno()])
        theirs.close()
        try:
            if cores and hasattr(os, "sched_setaffinity"):  # threads that it starts from now on inherit it
                os.sched_setaffinity(self._process.pid, cores)
            self.request(name, inputs.weights, inputs.image, threads, options)
            self.facts = self.reply()
            if name not in PEERS and any(found != blas for found in self.facts["blas"].values()):
                raise WorkerError(f"BLAS threads: {self.facts['blas']} where {blas} was asked for")
        except BaseException:
            self.close()
            raise

    def request(self, *message: object) -> None:
        """Ask for a method of `child.Child`: its name, then its arguments; `reply` waits for what it returns."""
        try:
            self._connection.send(message)
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None

    def reply(self):
        try:
            kind, content = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise WorkerError(self._last_words()) from None
        if kind == "error":
            raise WorkerError(content)
        return content

    def ask(self, *message: object):
        """A round trip: `request`, then `reply`."""
        self.request(*message)
        return self.reply()

    def pause(self) -> None:
        """Stop the process, so that no spinning thread of it takes a core from another."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _last_words(self) -> str:
        """Why the process is gone, as far as that can be told from outside."""
        code = self._process.wait()
        if code < 0:
            return f"killed by {signal.Signals(-code).name}" + " (out of memory?)" * (code == -signal.SIGKILL)
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().split("\n")
        return lines[-1].strip() or f"exit status {code}"
