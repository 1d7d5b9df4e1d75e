"""From C text to a library: find a compiler, ask it what this machine has, compile, keep for the next time, load."""

import ctypes
import hashlib
import importlib.util
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REMEDY = "install a C compiler (gcc or clang), or: pip install ziglang"


class CompilerError(Exception):
    """C code that cannot be compiled or loaded; the message is one line with the remedy."""


@dataclass(frozen=True)
class Isa:
    """An instruction set, as far as the generated code depends on it."""

    name: str
    width: int  # float32 numbers in a vector register
    pixels: int  # in a register tile: with two vectors each, plus weights, they fill the registers
    flags: tuple  # that make the compiler use it
    macros: tuple  # that the compiler predefines where the machine has it


# The best first. Registers: 32 with AVX-512 and NEON (14 x 2 sums, 2 weights), 16 otherwise (6 x 2 sums, 2 weights).
ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx512", 16, 14, ("-mavx512f", "-mfma", "-mprefer-vector-width=512"), ("__AVX512F__", "__FMA__")),
        Isa("avx2", 8, 6, ("-mavx2", "-mfma"), ("__AVX2__", "__FMA__")),
        Isa("neon", 4, 14, (), ("__aarch64__", "__ARM_NEON")),
        Isa("generic128", 4, 6, (), ()),
    )
}
FLAGS = ("-O2", "-ffp-contract=fast", "-fPIC", "-shared")


class Compiler:
    """A C compiler that was found, and what it says about this machine."""

    def __init__(self):
        """Raises CompilerError if there is none, or if it does not work."""
        self.command = find_compiler()
        listing = ["-dM", "-E", "-x", "c", os.devnull]
        try:
            self.macros = self.run("-march=native", *listing)
        except CompilerError:  # some compilers for ARM do not know that flag; there is nothing to choose there
            self.macros = self.run(*listing)

    def run(self, *arguments):
        """Return the compiler's standard output. Raises CompilerError."""
        command = [*self.command, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise CompilerError(f"{shlex.join(self.command)} cannot be run ({error.strerror}); {REMEDY}") from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
            reason = lines[0].strip() if lines else f"exit status {done.returncode}"
            raise CompilerError(f"{shlex.join(self.command)} failed ({reason}); {REMEDY}")
        return done.stdout

    def isas(self):
        """Return the instruction sets that this machine has, the best first."""
        defined = {line.split()[1] for line in self.macros.splitlines() if line.startswith("#define ")}
        return [isa for isa in ISAS.values() if defined.issuperset(isa.macros)]

    def isa(self, name=None):
        """Return the Isa of that name, or the best. Raises ValueError if this machine does not have it."""
        for isa in self.isas():
            if name in (None, isa.name):
                return isa
        here = ", ".join(isa.name for isa in self.isas())
        raise ValueError(f"isa: expected one that this machine has ({here}), got {name!r}")

    def load(self, source, isa, cache=True):
        """Return C text as a loaded library, from the user's cache if it was compiled before. Raises CompilerError."""
        flags = [*FLAGS, *isa.flags]
        key = hashlib.sha256("\0".join([source, *self.command, *flags, self.macros]).encode()).hexdigest()[:32]
        directory = cache_directory() if cache else None
        library = load_cached(directory, key) if directory else None
        if library is not None:
            return library
        try:
            with tempfile.TemporaryDirectory(prefix="resnet50-") as temporary:  # only this user can read or write it
                text, binary = Path(temporary, "resnet50.c"), Path(temporary, "resnet50-generated.so")
                text.write_text(source)
                self.run(*flags, "-o", str(binary), str(text))
                library = ctypes.CDLL(str(binary))
                if directory:
                    store(directory, key, binary.read_bytes())
        except OSError as error:
            raise CompilerError(f"no compiling in a temporary directory ({error}); TMPDIR=DIR names another") from None
        return library


def find_compiler():
    """Return the command of $CC, cc, gcc, clang or the ziglang wheel, as a list. Raises CompilerError."""
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        if shutil.which(chosen[0]) is None:
            raise CompilerError(f"CC={os.environ['CC']} is no command; unset it, or {REMEDY}")
        return chosen
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise CompilerError(f"no C compiler found; {REMEDY}")


def cache_directory():
    """Return the user's own cache directory, or None, with a warning, if there is none that others cannot write to.

    $RESNET50_CACHE names another directory; set but empty, it turns the cache off.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    chosen = os.environ.get("RESNET50_CACHE", os.path.join(caches, "resnet50-in-six-steps"))
    if not chosen or chosen.startswith("~"):  # this user has no home
        return None
    directory = Path(chosen)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.lstat()
    except OSError as error:
        return warn(f"no cache in {directory} ({error.strerror})")
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        return warn(f"no cache in {directory}: it is not a directory of mode 0700 that belongs to you")
    return directory


def load_cached(directory, key):
    """Return the library that was stored under this key, or None. A damaged file is removed."""
    for path in directory.glob(f"{key}-*.so"):
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() == path.stem.removeprefix(f"{key}-"):
                return ctypes.CDLL(str(path))
            path.unlink()
        except OSError:
            continue
    return None


def store(directory, key, content):
    """Keep a library as KEY-CHECKSUM.so. It appears under that name only when all of it is there."""
    path = directory / f"{key}-{hashlib.sha256(content).hexdigest()}.so"
    partial = directory / f"{key}.{os.getpid()}.part"
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        warn(f"not cached in {directory} ({error.strerror})")
        partial.unlink(missing_ok=True)


def warn(message):
    print(f"warning: {message}; the code is compiled anew each time", file=sys.stderr)
