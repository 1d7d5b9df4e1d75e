"""The compile-and-load module: which compiler, what is cached, and what happens when something is broken."""

import os
import subprocess
import sys

import pytest

from tests.codegen_support import COMPILERS, HERE, V5

compiler = V5.compiler
ISA = compiler.ISAS["generic128"]
SOURCE = "int answer(void) { return 42; }\n"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache directory of the test's own, not made yet."""
    monkeypatch.setenv("RESNET50_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compilations(monkeypatch):
    """The commands that compile something, as they are run."""
    commands, run = [], compiler.Compiler.run

    def noting(self, *arguments):
        commands.extend([arguments] if "-o" in arguments else [])
        return run(self, *arguments)

    monkeypatch.setattr(compiler.Compiler, "run", noting)
    return commands


def load(source=SOURCE, **options):
    return compiler.Compiler().load(source, ISA, **options)


def test_a_library_is_compiled_once(cache, compilations):
    assert load().answer() == 42 and load().answer() == 42
    assert len(compilations) == 1 and len(list(cache.iterdir())) == 1
    assert load(SOURCE.replace("42", "43")).answer() == 43
    assert len(compilations) == 2 and len(list(cache.iterdir())) == 2
    assert cache.stat().st_mode & 0o777 == 0o700


def test_the_key_is_source_flags_compiler_and_machine(cache, compilations, monkeypatch):
    load()
    compiler.Compiler().load(SOURCE, ISA._replace(flags=("-O1",)))
    built = compiler.Compiler()
    built.macros += "#define __OTHER_CPU__ 1\n"
    built.load(SOURCE, ISA)
    monkeypatch.setenv("CC", f"{compiler.find_compiler()[0]} -g")
    load()
    assert len(compilations) == 4


def test_without_cache_nothing_is_kept_or_used(cache, compilations, monkeypatch):
    load()
    assert load(cache=False).answer() == 42
    monkeypatch.setenv("RESNET50_CACHE", "")
    assert load().answer() == 42
    assert len(compilations) == 3 and len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"\x7fELF", "half", "flip"])
def test_a_damaged_library_is_never_loaded(damage, cache, compilations):
    load()
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    path.unlink()  # a new file: the old one is mapped into this process
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes({"half": content[: len(content) // 2], "flip": content}.get(damage, damage))
    assert load().answer() == 42 and len(compilations) == 2
    assert load().answer() == 42 and len(compilations) == 2
    assert [file.name for file in cache.iterdir()] == [path.name]


TROUBLE = {
    "open to others": lambda cache, patch: (cache.mkdir(), cache.chmod(0o750)),
    "writable by all": lambda cache, patch: (cache.mkdir(), cache.chmod(0o777)),
    "another user's": lambda cache, patch: patch.setattr(compiler.os, "getuid", lambda: -1),
    "read-only": lambda cache, patch: patch.setattr(compiler.os, "access", lambda path, mode: False),
    "a link": lambda cache, patch: cache.symlink_to(cache.parent),
    "a file": lambda cache, patch: cache.write_text(""),
    "no home": lambda cache, patch: patch.setenv("RESNET50_CACHE", "~no-such-user/cache"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_directory_that_is_not_this_users_alone_costs_a_warning(trouble, cache, compilations, monkeypatch, capfd):
    TROUBLE[trouble](cache, monkeypatch)
    assert load().answer() == 42 and load().answer() == 42
    assert len(compilations) == 2 and not list(cache.parent.rglob("*.so"))
    warning = capfd.readouterr().err.splitlines()[0]
    assert warning.startswith("warning: no cache in ") and os.environ["RESNET50_CACHE"] in warning


def test_no_room_to_compile_is_one_error(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(compiler.tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(compiler.CompilerError, match="TMPDIR"):
        load(cache=False)


@pytest.mark.parametrize("command", COMPILERS)
def test_every_compiler_says_what_the_machine_has(command, monkeypatch):
    monkeypatch.setenv("CC", command)
    found = compiler.Compiler()
    assert list(found.isas) == HERE and HERE[-1] == "generic128"
    for name, isa in ((None, compiler.ISAS[HERE[0]]), ("generic128", ISA)):
        assert found.isa(name)[:4] == isa[:4]
    assert found.load(SOURCE, found.isa(), cache=False).answer() == 42


def test_cache_sizes_are_what_the_system_says(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "Path", lambda name: tmp_path / name.rpartition("/cpu0/cache/")[2])
    for index, size in ((0, "48K\n"), (1, "32K\n")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size)
    isa = compiler.Compiler().isa("generic128")
    assert (isa.l1, isa.l2) == (48 * 1024, ISA.l2)  # and what it says nothing of stays as it is
    (tmp_path / "index2").mkdir()
    (tmp_path / "index2" / "size").write_text("1024K\n")
    assert compiler.Compiler().isa("generic128").l2 == 1024 * 1024


def test_the_wheel_is_the_last_resort(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: name if name in ("gcc", "clang") else None)
    assert compiler.find_compiler() == ["gcc"]
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: True)
    assert compiler.find_compiler() == [sys.executable, "-m", "ziglang", "cc"]
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(compiler.CompilerError, match=r"no C compiler.*install a C compiler.*pip install ziglang"):
        compiler.Compiler()


@pytest.mark.parametrize("command", ["no-such-compiler", "false", "python-is-none -x", "/"])
def test_a_compiler_that_does_not_work(command, monkeypatch):
    monkeypatch.setenv("CC", command)
    with pytest.raises(compiler.CompilerError, match=r"install a C compiler.*pip install ziglang") as caught:
        compiler.Compiler()
    assert "\n" not in str(caught.value)


def test_text_that_does_not_compile_is_one_line(cache):
    with pytest.raises(compiler.CompilerError, match="error") as caught:
        load("int answer(void) { return }\n")
    assert "\n" not in str(caught.value) and list(cache.iterdir()) == []


def test_the_command_line_without_a_compiler(small_weights_file):
    command = [sys.executable, V5.directory / "infer.py", "none.png", "--weights", small_weights_file]
    done = subprocess.run(command, env=os.environ | {"CC": "/no/compiler"}, capture_output=True, text=True)
    assert done.returncode and done.stderr.count("\n") == 1 and "pip install ziglang" in done.stderr
