"""From C text to a library: find a compiler, ask it what this machine has, compile, keep for the next time, load."""

import ctypes
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

REMEDY = "install a C compiler (gcc or clang), or: pip install ziglang"
REQUEST_TILES = 158, 0x1023, 18  # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
FLAGS = ("-O2", "-ffp-contract=fast", "-fPIC", "-shared")


class CompilerError(Exception):
    """C code that cannot be compiled or loaded; the message is one line with the remedy."""


class Isa(NamedTuple):
    """An instruction set, as far as the generated code depends on it."""

    width: int  # float32 numbers in a vector register
    pixels: int  # in a register tile: with two vectors each, plus weights, they fill the registers
    flags: tuple[str, ...]  # that make the compiler use it
    macros: tuple[str, ...]  # that the compiler predefines where the machine has it
    l1: int = 32 * 1024  # bytes of the first-level data cache, unless the system tells
    l2: int = 512 * 1024  # and of the second-level cache
    tiles: bool = False  # convolutions are those of ozaki.py


# The best first. Registers: 32 with AVX-512 and NEON (14 x 2 sums, 2 weights), 16 otherwise (6 x 2 sums, 2 weights).
AVX512 = ("-mavx512f", "-mfma", "-mprefer-vector-width=512")
ISAS = {
    "amx": Isa(16, 14, (*AVX512, "-mamx-tile", "-mamx-int8"), ("__AMX_INT8__", "__AVX512F__", "__FMA__"), tiles=True),
    "avx512": Isa(16, 14, AVX512, ("__AVX512F__", "__FMA__")),
    "avx2": Isa(8, 6, ("-mavx2", "-mfma"), ("__AVX2__", "__FMA__")),
    "neon": Isa(4, 14, (), ("__aarch64__", "__ARM_NEON")),
    "generic128": Isa(4, 6, (), ()),
}


class Compiler:
    """A C compiler and what it says about this machine. CompilerError if there is none, or if it does not work."""

    def __init__(self):
        self.command = find_compiler()
        native = ["-march=native"] if os.uname().machine == "x86_64" else []  # elsewhere there is nothing to choose
        self.macros = self.run(*native, "-dM", "-E", "-x", "c", os.devnull)
        self.isas = {name: isa for name, isa in ISAS.items() if {*isa.macros} <= {*self.macros.split()}}
        # Linux gives the tiles, 8 KiB of registers, only to a process that asks for them.
        if "amx" in self.isas and ctypes.CDLL(None).syscall(*REQUEST_TILES) != 0:
            del self.isas["amx"]

    def run(self, *arguments: str | Path) -> str:
        """Return the compiler's standard output. Raises CompilerError."""
        try:
            return subprocess.run([*self.command, *arguments], check=True, capture_output=True, errors="replace").stdout
        except (OSError, subprocess.CalledProcessError) as error:
            lines = (getattr(error, "stderr", None) or str(error)).splitlines()
            reason = next((line.strip() for line in lines if "error" in line.lower()), lines[0])
            raise CompilerError(f"{shlex.join(self.command)} does not work ({reason}); {REMEDY}") from None

    def isa(self, name: str | None = None) -> Isa:
        """Return the Isa of that name, or the best. Raises ValueError if this machine does not have it."""
        if name not in (None, *self.isas):
            raise ValueError(f"isa: expected one that this machine has ({', '.join(self.isas)}), got {name!r}")
        isa = self.isas[name or next(iter(self.isas))]
        return isa._replace(l1=cache_size(0, isa.l1), l2=cache_size(2, isa.l2))

    def load(self, source: str, isa: Isa, cache: bool = True) -> ctypes.CDLL:
        """Return C text as a loaded library, from the user's cache if it was compiled before. Raises CompilerError."""
        flags = [*FLAGS, *isa.flags]
        key = hashlib.sha256("\0".join([source, *self.command, *flags, self.macros]).encode()).hexdigest()[:32]
        directory = cache_directory() if cache and os.environ.get("RESNET50_CACHE") != "" else None
        try:
            for path in directory.glob(f"{key}-*.so") if directory else ():
                if path.stem == f"{key}-{crc32(path.read_bytes())}":
                    return ctypes.CDLL(str(path))
                path.unlink()  # damaged: to map a file that ends too early may kill the process
            with tempfile.TemporaryDirectory(prefix="resnet50-", dir=directory) as temporary:
                text, library = Path(temporary, "resnet50.c"), Path(temporary, "resnet50.so")
                text.write_text(source)
                self.run(*flags, "-o", library, text)
                kept = library.rename(Path(directory or temporary, f"{key}-{crc32(library.read_bytes())}.so"))
                return ctypes.CDLL(str(kept))
        except OSError as error:
            raise CompilerError(f"cannot compile ({error}); TMPDIR=DIR, RESNET50_CACHE=DIR name other places") from None


def cache_size(index: int, default: int) -> int:
    """Return the bytes of the first core's cache: Linux numbers them data, instructions, second level."""
    path = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size")
    return int(path.read_text().strip().removesuffix("K")) * 1024 if path.exists() else default


def find_compiler() -> list[str]:
    """Return the command of $CC, cc, gcc, clang or the ziglang wheel. Raises CompilerError."""
    if chosen := shlex.split(os.environ.get("CC", "")):
        return chosen
    if installed := [name for name in ("cc", "gcc", "clang") if shutil.which(name)]:
        return installed[:1]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise CompilerError(f"no C compiler found; {REMEDY}")


def cache_directory() -> Path | None:
    """Return $RESNET50_CACHE, else the user's cache directory; None, with a warning, if others can write there."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    chosen = os.environ.get("RESNET50_CACHE", f"{caches}/resnet50-in-six-steps")
    try:
        directory = Path(chosen).expanduser()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()  # a link's own mode is open to all
        if found.st_uid != os.getuid() or found.st_mode & 0o077 or not os.access(directory, os.W_OK):
            raise PermissionError("it is no writable directory of mode 0700 of your own")
        return directory
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        print(f"warning: no cache in {chosen} ({error}); the code is compiled anew each time", file=sys.stderr)
        return None
