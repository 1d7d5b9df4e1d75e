"""Version 5's compile-and-load module: which compiler, what is cached, and what happens when something is broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.versions import ROOT
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
    compiler.Compiler().load(SOURCE, compiler.Isa("other", 4, 6, ("-O1",), ()))
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


@pytest.mark.parametrize("damage", [b"", b"\x7fELF", None, "flip"])
def test_a_damaged_library_is_never_loaded(damage, cache, compilations):
    load()
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    path.unlink()  # a new file: the old one is mapped into this process
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes({None: content[: len(content) // 2], "flip": content}.get(damage, damage))
    assert load().answer() == 42
    assert len(compilations) == 2
    assert [file.name for file in cache.iterdir()] == [path.name]  # and it was replaced
    assert load().answer() == 42 and len(compilations) == 2


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o750, 0o701])
def test_a_directory_that_others_can_use_is_refused(mode, cache, compilations, capfd):
    load()
    (path,) = cache.iterdir()
    cache.chmod(mode)
    assert load().answer() == 42
    assert len(compilations) == 2 and [file.name for file in cache.iterdir()] == [path.name]
    captured = capfd.readouterr().err
    assert captured.count("\n") == 1 and str(cache) in captured and "0700" in captured


def test_a_directory_of_another_user_is_refused(cache, compilations, monkeypatch, capfd):
    load()
    user = os.getuid()
    monkeypatch.setattr(compiler.os, "getuid", lambda: user + 1)
    assert load().answer() == 42
    assert len(compilations) == 2 and str(cache) in capfd.readouterr().err


def test_a_link_to_a_directory_is_refused(cache, compilations, capfd, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cache.symlink_to(tmp_path / "elsewhere")
    assert load().answer() == 42 and load().answer() == 42
    assert len(compilations) == 2 and str(cache) in capfd.readouterr().err


def test_an_impossible_cache_costs_a_warning(compilations, monkeypatch, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESNET50_CACHE", str(tmp_path / "file" / "cache"))
    assert load().answer() == 42
    captured = capfd.readouterr().err
    assert captured.startswith("warning: ") and captured.count("\n") == 1


def test_a_full_disk_costs_a_warning(cache, monkeypatch, capfd):
    write = Path.write_bytes

    def full(path, content):
        if path.suffix != ".part":
            return write(path, content)
        write(path, content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert load().answer() == 42
    assert "No space left" in capfd.readouterr().err and list(cache.iterdir()) == []


def test_no_room_to_compile_is_one_error(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(compiler.tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(compiler.CompilerError, match="TMPDIR"):
        load()


def test_two_processes_at_once(cache):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from compiler import Compiler, ISAS\n"
        f"assert Compiler().load({SOURCE!r}, ISAS['generic128']).answer() == 42"
    )
    command = [sys.executable, "-c", code, str(ROOT / "v5_codegen")]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(process.communicate()[1], process.returncode) for process in running] == [("", 0)] * 4
    assert load().answer() == 42 and {path.suffix for path in cache.iterdir()} == {".so"}


@pytest.mark.parametrize("command", COMPILERS)
def test_every_compiler_says_what_the_machine_has(command, monkeypatch):
    monkeypatch.setenv("CC", command)
    found = compiler.Compiler()
    assert [isa.name for isa in found.isas()] == HERE and HERE[-1] == "generic128"
    assert found.isa().name == HERE[0] and found.isa("generic128") is ISA
    assert found.load(SOURCE, found.isa(), cache=False).answer() == 42


def hide_compilers(monkeypatch, wheel=False):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: wheel or None)


def test_no_compiler_at_all(monkeypatch):
    hide_compilers(monkeypatch)
    with pytest.raises(compiler.CompilerError, match=r"no C compiler.*install a C compiler.*pip install ziglang"):
        compiler.Compiler()


def test_the_wheel_is_the_last_resort(monkeypatch):
    hide_compilers(monkeypatch, wheel=True)
    assert compiler.find_compiler() == [sys.executable, "-m", "ziglang", "cc"]
    monkeypatch.setattr(compiler.shutil, "which", lambda name: name if name in ("gcc", "clang") else None)
    assert compiler.find_compiler() == ["gcc"]


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


@pytest.mark.parametrize("version", ["v5_codegen", "v6_threads"])
def test_the_command_line_without_a_compiler(version, small_weights_dir, tmp_path):
    command = [sys.executable, ROOT / version / "infer.py", tmp_path / "none.png", "--weights", small_weights_dir]
    done = subprocess.run(command, env=os.environ | {"CC": "/no/compiler"}, capture_output=True, text=True)
    assert done.returncode and done.stderr.count("\n") == 1 and "pip install ziglang" in done.stderr
