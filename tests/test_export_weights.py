"""The exporter: what it writes, what it refuses, and that nothing is ever half-written.

Most tests shrink the architecture (the fixture `tiny`): sources, files and errors work the same, in milliseconds.
"""

import argparse
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from common import architecture, export_weights, pretrained
from common.architecture import tensor_shapes
from common.checkpoint import checkpoint
from common.export_weights import main, read_labels
from common.packed import pack
from common.synthetic import synthetic
from common.torchvision_import import import_torchvision
from common.weights_file import IMAGENET_V1, ExportError, check_preprocessing, intact, write_weights
from tests.torch_reference import torch_activations, torch_model

SCRIPT = Path(export_weights.__file__)
LABELS = ["aé", "b", "ネコ"]
QUICK = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def no_weights_of_ours(monkeypatch, tmp_path):
    """A forgotten --out must not touch the weights of this checkout."""
    monkeypatch.setattr(export_weights, "DEFAULT_OUT", tmp_path / "default")


@pytest.fixture
def tiny(monkeypatch):
    """A ResNet of one block, 2 channels wide: 27 tensors in 40 kB."""
    monkeypatch.setattr(architecture, "STAGES", ((1, 2),))


@pytest.fixture(scope="session")
def random_model():
    """torchvision's ResNet-50, every vector random, batch-norm statistics included."""
    model = import_torchvision().models.resnet50(weights=None)
    generator = torch.Generator().manual_seed(7)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.uniform_(0.5 if name.endswith("var") else -1, 1.5, generator=generator)
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.dim()}


def save(tensors, path, wrap=lambda state_dict: state_dict):
    torch.save(wrap({name: torch.as_tensor(array) for name, array in tensors.items()}), path)
    return path


def export(out, seed=0, force=False):
    write_weights(out, synthetic(seed, 3), source=f"seed {seed}", labels=LABELS, preprocessing=IMAGENET_V1, force=force)


def read(out):
    """Return a weights file's manifest and its tensors in PyTorch's layout, with nothing but safetensors."""
    with safe_open(out, framework="numpy") as file:
        manifest = json.loads(file.metadata()["manifest"])
    stored = load_file(out)
    assert all(array.dtype == np.float32 for array in stored.values())
    return manifest, {n: array.transpose(0, 3, 1, 2) if array.ndim == 4 else array for n, array in stored.items()}


def assert_holds(out, tensors):
    """`out` holds exactly these tensors, and is intact; return its manifest."""
    manifest, stored = read(out)
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(stored[name], np.asarray(tensor, np.float32), err_msg=name)
    assert manifest["format"] == 2 and manifest["num_classes"] == len(manifest["labels"]) == len(tensors["fc.bias"])
    assert intact(out) == manifest
    return manifest


def refusal(arguments, capsys):
    """Run a command that must fail; return its one line."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 1
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_shapes_are_torchvisions(random_model):
    assert tensor_shapes(1000) == {name: tuple(tensor.shape) for name, tensor in random_model.items()}


@pytest.fixture(scope="module")
def tensors():
    return synthetic(0, 1000)


class TestSynthetic:
    def test_the_same_on_every_machine(self, tensors):
        """The digest covers every bit of seed 0; it may change only together with the recipe."""
        digest = hashlib.sha256()
        for name in sorted(tensors):
            digest.update(name.encode() + tensors[name].astype("<f4").tobytes())
        assert digest.hexdigest() == "1fb75701bcf7e6bd5666bdcd81b05df3a67fc496a6f173c766019651d45c3cca"

    def test_batch_norm_is_not_trivial(self, tensors):
        assert {name: tensor.shape for name, tensor in tensors.items()} == tensor_shapes(1000)
        for name, tensor in tensors.items():
            assert tensor.dtype == np.float32 and np.isfinite(tensor).all()
            assert tensor.ndim > 1 or (tensor.std() > 0.05 and len(np.unique(tensor)) > 0.99 * len(tensor)), name
            assert not name.endswith("running_var") or (tensor >= 0.5).all()

    @pytest.mark.parametrize("arguments", [("--seed", "-1"), ("--num-classes", "0"), ("--num-classes", "1000000000")])
    def test_impossible_numbers(self, tmp_path, capsys, arguments):
        assert arguments[1] in refusal(["synthetic", *arguments, "--out", tmp_path / "w"], capsys)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("size", [224, 32])
    def test_activations_stay_of_ordinary_size(self, size, tensors):
        """Through all fifty layers, for photographs and for noise; and different pictures are told apart."""
        from skimage import data

        model, classes = torch_model(tensors), set()
        pictures = [Image.fromarray(photograph()) for photograph in (data.chelsea, data.coffee, data.astronaut)]
        pictures = [np.asarray(picture.resize((size, size))) / 255 for picture in pictures]
        pictures = [(picture - IMAGENET_V1["mean"]) / IMAGENET_V1["std"] for picture in pictures]
        for picture in [*pictures, np.random.default_rng(0).standard_normal((size, size, 3))]:
            found = torch_activations(model, picture)
            logits, _ = found.pop("logits"), found.pop("avgpool")
            assert all(0.4 <= array.std() <= 2.5 for array in found.values())
            assert 0.5 <= logits.std() <= 5 and 1 <= np.abs(logits).max() <= 20
            classes.add(int(logits.argmax()))
        assert len(classes) == 4


UNUSABLE = [
    ("fc.bias", lambda array: array[:-1], r"fc.weight is \(3, 8\), not \(2, 8\)"),
    ("bn1.weight", lambda array: array * np.nan, "bn1.weight holds NaN"),
    ("fc.weight", lambda array: array + np.inf, "fc.weight holds NaN, infinity"),
    ("bn1.running_var", lambda array: array - 2, "bn1.running_var holds a variance below zero"),
    ("conv1.weight", lambda array: array.transpose(0, 2, 3, 1), "conv1.weight is"),
]


class TestWriting:
    @QUICK
    @given(labels=st.lists(st.text(min_size=1), min_size=1, max_size=9), source=st.text(), note=st.text())
    def test_round_trip(self, tiny, tmp_path, labels, source, note):
        out, tensors = tmp_path / "with spaces", synthetic(1, len(labels))
        write_weights(out, tensors, source=source, labels=labels, preprocessing=IMAGENET_V1, note=note, force=True)
        manifest = assert_holds(out, tensors)
        assert (manifest["source"], manifest["labels"], manifest.get("note", "")) == (source, labels, note)
        assert manifest["preprocessing"] == IMAGENET_V1

    def test_full_size_from_the_command_line(self, tmp_path):
        """From another working directory, into directories that do not exist yet, readable by all whom umask lets."""
        command = [sys.executable, SCRIPT, "synthetic", "--seed", "5", "--num-classes", "3", "--out", "a new/dir/w"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, umask=0o022)
        assert result.returncode == 0 and result.stderr == ""
        assert "mean nothing" in result.stdout
        out = tmp_path / "a new" / "dir" / "w"
        manifest = assert_holds(out, synthetic(5, 3))
        assert manifest["source"] == "synthetic seed 5" and manifest["labels"] == ["class 0", "class 1", "class 2"]
        assert [*out.parent.iterdir()] == [out] and out.stat().st_mode & 0o777 == 0o644

    def test_replaced_only_with_force(self, tiny, tmp_path, capsys):
        out = tmp_path / "w"
        export(out)
        assert "(seed 0); --force replaces it" in refusal(["synthetic", "--out", out], capsys)
        assert main(["--out", str(out)]) == main(["auto", "--out", str(out)]) == 0
        assert intact(out)["source"] == "seed 0"
        assert main(["--force", "--out", str(out), "synthetic", "--seed", "9"]) == 0
        assert_holds(out, synthetic(9, 1000))
        out.write_text("precious")
        assert "holds no intact weights; --force" in refusal(["synthetic", "--out", out], capsys)
        assert "holds no intact weights; --force" in refusal(["--out", out], capsys)
        assert out.read_text() == "precious"

    def test_odd_places(self, tiny, tmp_path, capsys):
        (tmp_path / "file").touch()
        (tmp_path / "earlier").mkdir()
        (tmp_path / "earlier" / "manifest.json").touch()
        assert "is a directory, and weights are one file" in refusal(["synthetic", "--out", tmp_path], capsys)
        assert "Not a directory" in refusal(["synthetic", "--out", tmp_path / "file" / "below"], capsys)
        assert "too long" in refusal(["synthetic", "--out", tmp_path / ("long" * 100)], capsys)
        assert main(["synthetic", "--out", str(tmp_path / "earlier.safetensors")]) == 0
        assert f"{tmp_path / 'earlier'} holds weights of the earlier format" in capsys.readouterr().out
        (tmp_path / "link").symlink_to("target")
        export(tmp_path / "link")
        assert (tmp_path / "link").is_symlink() and intact(tmp_path / "target")["source"] == "seed 0"

    @pytest.mark.parametrize("key", ["bn1.bias", "fc.weight", "format", "source", "labels", "preprocessing"])
    def test_what_is_not_intact(self, tiny, tmp_path, key):
        export(tmp_path / "w")
        manifest, tensors = intact(tmp_path / "w"), load_file(tmp_path / "w")
        if key in manifest:
            manifest[key] = {}
        else:
            tensors[key] = tensors[key].astype(np.float16)
        save_file(tensors, tmp_path / "w", {"manifest": json.dumps(manifest)})
        assert intact(tmp_path / "w") is None

    @pytest.mark.parametrize(("name", "change", "message"), UNUSABLE)
    def test_tensors_that_cannot_be_used(self, tiny, tmp_path, name, change, message):
        tensors = synthetic(0, 3)
        tensors[name] = change(tensors[name])
        with pytest.raises(ExportError, match=message):
            write_weights(tmp_path / "w", tensors, source="", labels=LABELS, preprocessing=IMAGENET_V1)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(("key", "value"), [
        ("crop", 31), ("crop", 300), ("crop", 32.5), ("resize", 223), ("mean", [0.5, 0.5]), ("mean", [0, 0, 1.1]),
        ("mean", [0, 0, np.nan]), ("std", [1, 0, 1]), ("std", [1, np.inf, 1]), ("std", [1] * 4)])  # fmt: skip
    def test_preprocessing_that_cannot_be_done(self, key, value):
        check_preprocessing(IMAGENET_V1)
        with pytest.raises(ExportError, match=key):
            check_preprocessing(IMAGENET_V1 | {key: value})

    def test_ctrl_c_while_it_writes(self, tiny, tmp_path, capsys, monkeypatch):
        def interrupted(path, content):
            with open(path, "wb") as file:
                file.write(content[:1000])
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "write_bytes", interrupted)
        (tmp_path / "w").write_text("old")
        assert main(["synthetic", "--out", str(tmp_path / "w"), "--force"]) == 130
        assert capsys.readouterr().err == "error: interrupted\n"
        assert (tmp_path / "w").read_text() == "old" and [*tmp_path.iterdir()] == [tmp_path / "w"]

    def test_full_disk(self, tmp_path):
        """A real failing write: the process may not make a file longer than 1 MiB."""
        out = tmp_path / "w"
        out.write_text("old")
        limit = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)); "
        code = limit + f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
        command = [sys.executable, "-c", code, "synthetic", "--out", out, "--force"]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 1
        assert result.stderr == f"error: cannot write {out}: File too large; what was there is untouched\n"
        assert out.read_text() == "old" and [*tmp_path.iterdir()] == [out]


WRAPS = [
    lambda state: state,
    lambda state: {"state_dict": state},
    lambda state: {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {}}},
    lambda state: {"model_state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    lambda state: {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}, "epoch": 3},
    lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
    lambda state: state | {"bn1.num_batches_tracked": torch.tensor(5)},
]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
OTHERS = {
    "resnet18": "layer1.0.downsample.0.weight is missing",
    "resnet101": "layer3.6.conv1.weight is not part of it",
    "wide_resnet50_2": "layer1.0.conv1.weight is (128, 64, 1, 1), not (64, 64, 1, 1)",
}


class TestCheckpoint:
    def test_from_the_command_line_without_pytorch(self, random_model, tmp_path):
        file = save(random_model, tmp_path / "my weights.pth")
        options = f"--out {tmp_path / 'w'} --resize 64 --crop 48 --mean 0 0.5 1 --std 1 0.5 0.25"
        without = (
            f"import sys, runpy; sys.modules['torch'] = None; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
        )
        command = [sys.executable, "-c", without, "checkpoint", file, *options.split()]
        assert "--labels" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
        manifest = assert_holds(tmp_path / "w", random_model)
        assert manifest["source"] == "checkpoint my weights.pth"
        assert manifest["preprocessing"] == {"resize": 64, "crop": 48, "interpolation": "bilinear",
                                             "mean": [0, 0.5, 1], "std": [1, 0.5, 0.25]}  # fmt: skip

    @QUICK
    @given(wrap=st.sampled_from(WRAPS), dtype=st.sampled_from(DTYPES), timm=st.booleans())
    def test_every_usual_form(self, tiny, tmp_path, wrap, dtype, timm):
        """torch.save's, and timm's: safetensors with the same names."""
        state_dict = {name: torch.from_numpy(array).to(dtype) for name, array in synthetic(0, 3).items()}
        file = tmp_path / ("model.safetensors" if timm else "model.pth")
        if timm:
            counted = state_dict | {"bn1.num_batches_tracked": torch.tensor(5, dtype=torch.int32)}
            safetensors.torch.save_file(counted, file, {"format": "pt"})
        else:
            save(state_dict, file, wrap)
        arrays = checkpoint(file)
        assert arrays.keys() == state_dict.keys()
        for name, array in arrays.items():
            assert array.dtype == np.float32 and np.array_equal(array, state_dict[name].float().numpy()), name

    def test_safetensors_and_labels(self, tiny, tmp_path, capsys):
        file, labels, out = (tmp_path / name for name in ("model.safetensors", "labels.txt", "w"))
        save_file(synthetic(0, 3), file)
        command = ["checkpoint", str(file), "--labels", str(labels), "--out", str(out)]
        for content, message in [
            (None, "labels.txt"), (b"caf\xe9\n", "not UTF-8"), (b"cat\n\ndog\n", "label 1 is ''"),
            (b"cat\ndog\n", "2 labels for 3 classes"),
        ]:  # fmt: skip
            if content:
                labels.write_bytes(content)
            assert message in refusal(command, capsys)
        labels.write_bytes("\ufeffaé\r\nb\r\nネコ\r\n\r\n".encode())
        assert main(command) == 0
        assert assert_holds(out, synthetic(0, 3))["labels"] == read_labels(labels) == LABELS
        ours = out.rename(tmp_path / "ours.safetensors")
        assert f"an export already, which infer.py reads as it is: --weights {ours}" in refusal(
            ["checkpoint", ours, "--out", out], capsys
        )

    @pytest.mark.parametrize("name", OTHERS)
    def test_other_architectures_are_named(self, tmp_path, capsys, name):
        with torch.device("meta"):
            model = getattr(import_torchvision().models, name)(weights=None)
        tensors = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in model.state_dict().items()}
        file = save(tensors, tmp_path / "other.pth")
        message = refusal(["checkpoint", file, "--out", tmp_path / "w"], capsys)
        assert "other.pth: not a ResNet-50" in message and OTHERS[name] in message

    @pytest.mark.parametrize("name", ["module", "list", "text", "cut.pth", "cut.safetensors", "."])
    def test_what_is_no_checkpoint(self, name, tmp_path, capsys):
        torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "module")
        torch.save([torch.zeros(20000)], tmp_path / "list")
        (tmp_path / "cut.pth").write_bytes((tmp_path / "list").read_bytes()[:40000])
        for other in ("text", "cut.safetensors"):
            (tmp_path / other).write_text("These are no weights.\n")
        message = refusal(["checkpoint", tmp_path / name, "--out", tmp_path / "w"], capsys)
        assert str(tmp_path / name) in message and "weights_only=False" not in message
        assert ("holds Python objects (" in message) == (name == "module")


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors", "absent.npz"])
def test_a_file_that_is_missing_is_called_so(name, tmp_path, capsys):
    source = "demo" if name.endswith("npz") else "checkpoint"
    message = refusal([source, tmp_path / name, "--out", tmp_path / "w"], capsys)
    assert f"there is no file {tmp_path / name}" in message and "damaged" not in message


PATIENCE = 0.8  # seconds, in place of nine


class Server(BaseHTTPRequestHandler):
    """Serves `content` in the way that the path names; anything else is not found."""

    content, asked = b"", []

    def do_GET(self):
        way = self.path.rpartition("/")[2]
        self.asked.append(self.path)
        if way == "silent":
            return time.sleep(2 * PATIENCE)
        if way not in ("whole", "slow", "cut", "stalled", "wrong"):
            return self.send_error(404)
        content = b"Please log in" if way == "wrong" else self.content
        self.send_response(200)
        self.send_header("Content-Length", len(content))
        self.end_headers()
        self.wfile.write(content[:1000])
        time.sleep(PATIENCE * {"slow": 0.5, "stalled": 2}.get(way, 0))
        if way != "cut":
            self.wfile.write(content[1000:])

    def log_message(self, *arguments):
        pass


FAILURES = {"silent": "no answer within|Read timed out", "stalled": "Read timed out", "cut": "IncompleteRead",
            "absent": "Not Found", "wrong": "another SHA-256", "refused": "Connection refused",
            "unknown": "Failed to resolve|no answer", "lost": "no answer within",
            "file": "is not resnet50-11ad3fa6.pth: its SHA-256 is",
            "no file": "cannot read no/file.pth: No such file"}  # fmt: skip


class TestPretrained:
    @pytest.fixture
    def host(self, tiny, monkeypatch, tmp_path):
        """The address of a server of torchvision's weights, tiny ones; the cache is empty."""
        Server.content = save(synthetic(0, 1000), tmp_path / "model.pth").read_bytes()
        release = pretrained.RELEASES["IMAGENET1K_V2"]
        release = release._replace(sha256=hashlib.sha256(Server.content).hexdigest())
        monkeypatch.setitem(pretrained.RELEASES, "IMAGENET1K_V2", release)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "*")
        Server.asked.clear()
        with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
            threading.Thread(target=server.serve_forever, args=(0.02,)).start()
            yield f"http://127.0.0.1:{server.server_port}/"
            server.shutdown()

    def test_what_is_known_of_torchvisions(self):
        assert pretrained.TIMEOUT < 10
        for tag, release in pretrained.RELEASES.items():
            theirs, ours = import_torchvision().models.ResNet50_Weights[tag], IMAGENET_V1 | {"resize": release.resize}
            preset = theirs.transforms()
            assert theirs.url == pretrained.HOST + release.file and release.sha256[:8] in release.file
            assert (preset.resize_size, preset.crop_size) == ([ours["resize"]], [ours["crop"]])
            assert (preset.mean, preset.std, preset.interpolation.value) == (ours["mean"], ours["std"], "bilinear")
            assert pretrained.CLASSES.read_text("utf-8").splitlines() == theirs.meta["categories"]

    @pytest.mark.parametrize("way", ["whole", "slow", "file", "proxy", "auto"])
    def test_fetched_and_exported(self, way, host, tmp_path, monkeypatch):
        url = {"file": str(tmp_path / "model.pth"), "proxy": "http://no-such-host.invalid/whole", "slow": host + "slow"}
        url = url.get(way, host + "whole")
        monkeypatch.setenv("RESNET50_URL", url)
        if way == "proxy":
            monkeypatch.setenv("http_proxy", host)
            monkeypatch.delenv("no_proxy")
        options = [] if way == "auto" else ["torchvision", "--url", url]
        for _ in range(2):  # the second time from the cache
            assert main([*options, "--force", "--out", str(tmp_path / "w")]) == 0
        manifest = assert_holds(tmp_path / "w", synthetic(0, 1000))
        assert manifest["source"] == "torchvision IMAGENET1K_V2" and manifest["labels"][281] == "tabby"
        assert manifest["preprocessing"] == IMAGENET_V1 | {"resize": 232} and len(Server.asked) == (way != "file")

    @pytest.mark.parametrize("way", FAILURES)
    def test_a_failed_download(self, way, host, tmp_path, monkeypatch, capsys):
        """One line says what to download where; `auto` goes on with the small model, or keeps what is there."""
        if way == "lost":  # no name server answers
            monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments: time.sleep(2 * PATIENCE))
        url = {"refused": "http://127.0.0.1:9/", "unknown": "http://no-such-host.invalid/", "file": os.devnull,
               "no file": "no/file.pth"}  # fmt: skip
        monkeypatch.setenv("RESNET50_URL", url.get(way, host + way))
        monkeypatch.setattr(pretrained, "TIMEOUT", PATIENCE)
        monkeypatch.setattr(export_weights, "DEMO", tmp_path / "demo.npz")
        pack(synthetic(0, 3), LABELS, 64, tmp_path / "demo.npz")
        out = str(tmp_path / "w")
        for command, status, expected in [
            (["torchvision"], 1, ""), ([], 0, "going on without torchvision's weights, the better ones: "),
            (["--force"], 1, f"{out} keeps its weights (demo): "),
        ]:  # fmt: skip
            assert main([*command, "--out", out]) == status
            message = capsys.readouterr().err.strip().rpartition("\n")[2]
            assert re.search(FAILURES[way], message) and expected in message
            assert "file" in way or f"save it as {tmp_path}/cache/hub/checkpoints/resnet50-11ad3fa6.pth" in message
        assert not [*tmp_path.glob("cache/hub/checkpoints/*")] and intact(out)["source"] == "demo"

    def test_a_cache_that_cannot_be_written_is_named(self, host, tmp_path, monkeypatch, capsys):
        (tmp_path / "taken").write_text("a file")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "taken"))
        monkeypatch.setenv("RESNET50_URL", host + "right")
        assert main(["torchvision", "--out", str(tmp_path / "w")]) == 1
        assert re.search(rf"\({tmp_path}/taken[^)]*: (Not a directory|File exists)\)", capsys.readouterr().err)

    def test_ctrl_c_stops_the_download_only(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
            environment = {"RESNET50_URL": url, "TORCH_HOME": str(tmp_path), "no_proxy": "*"}
            command = [sys.executable, SCRIPT, "--out", tmp_path / "w"]
            with subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True) as process:
                assert "fetching" in process.stderr.readline()
                process.send_signal(signal.SIGINT)
                assert "going on without torchvision's weights, the better ones: interrupted" in process.stderr.read()
        assert process.returncode == 0 and intact(tmp_path / "w")["source"] == "demo"


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "flipped": lambda content: content[:5000] + bytes(byte ^ 255 for byte in content[5000:5400]) + content[5400:],
}


class TestPacked:
    def test_unpacked_with_its_classes_and_picture_size(self, tiny, tmp_path):
        tensors = synthetic(0, 3)
        pack(tensors, LABELS, 56, tmp_path / "my.npz")
        assert main(["demo", str(tmp_path / "my.npz"), "--out", str(tmp_path / "w")]) == 0
        manifest, stored = read(tmp_path / "w")
        assert manifest["source"] == "packed my.npz" and manifest["labels"] == LABELS
        assert manifest["preprocessing"] == IMAGENET_V1 | {"resize": 56, "crop": 56}
        for name, array in tensors.items():
            largest = np.abs(array).max(axis=(1, 2, 3), keepdims=True) if array.ndim == 4 else 0
            assert (np.abs(stored[name] - array) <= largest / 254 * (1 + 1e-5)).all(), name

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_damaged(self, damage, tiny, tmp_path, capsys):
        file = tmp_path / "my.npz"
        pack(synthetic(0, 3), LABELS, 64, file)
        file.write_bytes(DAMAGES[damage](file.read_bytes()))
        message = refusal(["demo", file, "--out", tmp_path / "w"], capsys)
        assert f"{file} is no packed ResNet-50, or a damaged one" in message
