"""The Makefile, the README's own code, the check of pretrained weights, and what is loaded beside what."""

import os
import re
import subprocess
import sys

import pytest

from bench import verify
from common.versions import ROOT, load_version
from common.weights_file import IMAGENET_V1, write_weights
from tests.conftest import make


def test_make_lists_its_targets():
    listed = {line.split()[1]: line.split()[2:] for line in make().stdout.splitlines()}
    phony = re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text().replace("\\\n", " ")).group(1).split()
    assert listed.keys() == set(phony) and all(listed.values())


@pytest.mark.parametrize(("target", "name"), [("train", "DATA"), ("evaluate", "DATA"), ("scale-out", "PICTURES")])
def test_make_asks_for_pictures(target, name):
    result = make(target)
    assert result.returncode == 2 and f"error: {name}=PATH names the pictures" in result.stderr and not result.stdout


@pytest.mark.parametrize("target", ["demo", "play", "scale-out", "evaluate"])
def test_make_takes_other_weights(target, tmp_path):
    (weights := tmp_path / "w.safetensors").touch()
    result = make("-n", target, f"WEIGHTS={weights}", "DATA=d", "PICTURES=p")
    assert f'--weights "{weights}"' in result.stdout, result.stderr
    result = make("-n", target, f"WEIGHTS={weights}x", "DATA=d", "PICTURES=p")
    assert result.returncode == 2 and f"{weights}x: there is no such file" in result.stderr


@pytest.mark.parametrize("target", ["bench", "bench-quick", "bench-peers", "bench-scaling"])
def test_the_benchmark_takes_only_weights_that_are_named(target):
    assert "--weights" not in make("-n", target).stdout
    assert '--weights "my.safetensors"' in make("-n", target, "WEIGHTS=my.safetensors").stdout


def test_make_compares_files_only(tmp_path):
    (run := tmp_path / "a.json").touch()
    for names in [], [f"A={run}"], [f"A={run}", f"B={run}x"]:
        result = make("bench-compare", *names)
        assert result.returncode == 2 and "error: A=FILE and B=FILE" in result.stderr


def test_make_compares_two_runs(tmp_path):
    """Where the tests' requirements are not installed, too: it must not load their settings."""
    result = make("-n", "bench-compare", f"A={ROOT}/README.md", f"B={ROOT}/Makefile")
    assert "cd bench/results && $run compare" in result.stdout


@pytest.mark.parametrize(("step", "new"), [("v3 v4", "buffers.py"), ("v6 v7", "winograd.py")])
def test_make_diff(step, new):
    a, b = step.split()
    result = make("diff", f"A={a}", f"B={b}")
    assert result.returncode == 0 and f"/{new}" in result.stdout
    assert "/README.md" not in result.stdout and "image.py" not in result.stdout


@pytest.mark.parametrize("names", [("A=v3", "B=v99"), ("A=", "B=v4"), ("A=v", "B=v4")])
def test_make_diff_of_no_version(names):
    result = make("diff", *names)
    assert result.returncode != 0 and "A and B name versions" in result.stderr


def test_the_readmes_program_runs(small_weights_file):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    program = block.replace("weights/resnet50.safetensors", str(small_weights_file))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "v4_no_alloc")}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert result.returncode == 0 and re.fullmatch(r"class \d\n", result.stdout), result.stderr


def test_loading_versions_leaves_no_trace():
    before, path = set(sys.modules), list(sys.path)
    first, second = load_version("v2_vectorized"), load_version("v4_no_alloc")
    assert first.ops is not second.ops and first.ops is not load_version("v2_vectorized").ops
    assert second.resnet50.conv2d is second.ops.conv2d
    assert not {"ops", "image", "weights", "resnet50", "buffers"} & (set(sys.modules) - before) and sys.path == path
    with pytest.raises(ValueError, match="v1_loops"):
        load_version("v99")


class TestVerify:
    """Weights that claim to know ImageNet are checked on photographs; any others leave nothing to check."""

    def test_a_version_that_does_not_exist(self, demo_weights, capsys):
        with pytest.raises(SystemExit, match="2"):
            verify.main(["v99", "--weights", str(demo_weights)])
        assert "there is no 'v99'; choose from v1_loops" in capsys.readouterr().err

    @pytest.mark.parametrize("content", [None, b"", b"no weights"])
    def test_damaged_weights(self, content, tmp_path, capsys):
        file = tmp_path / "w.safetensors"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(SystemExit, match="2"):
            verify.main(["--weights", str(file)])
        assert f"{file} holds no intact weights" in capsys.readouterr().err

    def test_other_weights(self, small_weights_file, capsys):
        assert verify.main(["--weights", str(small_weights_file)]) == 0
        assert "nothing to check" in capsys.readouterr().out

    @pytest.mark.parametrize(("label", "status"), [("tench", 1), ("tabby", 0)])
    @pytest.mark.parametrize("source", ["torchvision IMAGENET1K_V2", "demo"])
    def test_the_right_class_decides(self, source, label, status, small_state, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(verify, "RIGHT", {"chelsea.png": {"tabby"}, "coffee.png": {"tabby", "cup"}})
        preprocessing = IMAGENET_V1 | {"resize": 32, "crop": 32}
        file = tmp_path / "w.safetensors"
        write_weights(file, small_state, source=source, labels=[label] * 7, preprocessing=preprocessing)
        assert verify.main(["v4", "--weights", str(file)]) == status
        out = capsys.readouterr().out
        assert out.count("WRONG") == 2 * status and out.count("v4_no_alloc") == 2
