"""The exporter: what it writes, what it refuses, and that nothing is ever half-written.

Most tests shrink the architecture (the fixture `tiny`): sources, files and errors work the same, in milliseconds.
The network itself is exported at full size once per source.
"""

import hashlib
import http.server
import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import architecture, export_weights, pretrained
from common.export_weights import ExportError, expected_shapes, main, read_labels, synthetic, write_weights
from common.packed import pack, quantize
from common.weights_on_disk import IMAGENET_V1, check_preprocessing, intact

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "common" / "export_weights.py"
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def tiny(monkeypatch):
    """A ResNet of one block, 2 channels wide: 27 tensors in 40 kB; and no waiting for the disk."""
    monkeypatch.setattr(architecture, "STAGES", ((1, 2),))
    monkeypatch.setattr(architecture, "FEATURES", 8)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="session")
def random_model():
    """torchvision's ResNet-50 with 1000 classes, every tensor random, batch-norm statistics included."""
    model = pretrained.import_torchvision().models.resnet50(weights=None)
    generator = torch.Generator().manual_seed(7)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.uniform_(0.5 if name.endswith("var") else -1, 1.5, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def random_checkpoint(random_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "my weights.pth"
    torch.save(random_model.state_dict(), path)
    return path


def random_tensors(num_classes=3, seed=0):
    return synthetic(seed, num_classes)


def save(tensors, path, wrap=lambda state_dict: state_dict, **saving):
    torch.save(wrap({name: torch.as_tensor(array) for name, array in tensors.items()}), path, **saving)
    return path


def run(*arguments, **options):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True,
                          timeout=120, **options)


def check_directory(out, tensors):
    """`out` holds exactly `tensors` in the documented format, and its manifest describes the files."""
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format"] == 1
    assert list(manifest["tensors"]) == list(tensors)
    assert {path.name for path in out.iterdir()} == {f"{name}.npy" for name in tensors} | {"manifest.json"}
    for name, tensor in tensors.items():
        content = (out / f"{name}.npy").read_bytes()
        stored = np.load(io.BytesIO(content), allow_pickle=False)
        expected = np.asarray(tensor).transpose(0, 2, 3, 1) if np.ndim(tensor) == 4 else np.asarray(tensor)
        assert stored.dtype == np.dtype("<f4") and stored.flags.c_contiguous
        assert np.isfinite(stored).all() and np.array_equal(stored, expected.astype(np.float32)), name
        assert manifest["tensors"][name] == {"shape": list(stored.shape),
                                             "sha256": hashlib.sha256(content).hexdigest()}
    assert manifest["num_classes"] == len(manifest["labels"]) == len(tensors["fc.bias"])
    return manifest


def one_line(text):
    """The single line of an error message."""
    lines = text.strip().split("\n")
    assert len(lines) == 1 and lines[0].startswith("error: "), text
    return lines[0]


# --- the architecture ---

def test_expected_shapes_are_torchvisions(random_model):
    shapes = {name: tuple(tensor.shape) for name, tensor in random_model.state_dict().items()
              if not name.endswith("num_batches_tracked")}
    assert list(expected_shapes(1000).items()) == list(shapes.items())
    assert expected_shapes(7)["fc.weight"] == (7, 2048)


# --- synthetic weights ---

@pytest.fixture(scope="module")
def synthetic_1000():
    return synthetic(0, 1000)


def test_synthetic_weights_are_the_same_on_every_machine(synthetic_1000):
    """The digest covers every bit of seed 0; it may change only together with a deliberate change of the recipe."""
    digest = hashlib.sha256()
    for name, tensor in synthetic_1000.items():
        digest.update(name.encode() + tensor.astype("<f4").tobytes())
    assert digest.hexdigest() == "6b68ac9ddd109449a688efed16087fe18053d42300445fe80322d0a144dc170a"


@QUICK
@given(seed=st.integers(0, 2**70), num_classes=st.integers(1, 40))
def test_synthetic_tensors_have_the_shapes_and_ranges(tiny, seed, num_classes):
    tensors = synthetic(seed, num_classes)
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected_shapes(num_classes)
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32 and np.isfinite(tensor).all()
        if name.endswith("running_var"):
            assert (tensor >= 0.5).all() and (tensor <= 1.5).all()
    assert not np.array_equal(tensors["conv1.weight"], synthetic(seed + 1, num_classes)["conv1.weight"])
    assert np.array_equal(tensors["conv1.weight"], synthetic(seed, num_classes + 1)["conv1.weight"])


def test_synthetic_batch_norm_is_not_trivial(synthetic_1000):
    for name, tensor in synthetic_1000.items():
        if tensor.ndim == 1 and not name.startswith("fc"):
            assert tensor.std() > 0.05, name
            assert len(np.unique(tensor)) > 0.99 * len(tensor), name


@pytest.mark.parametrize("arguments", [("--seed", "-1"), ("--num-classes", "0"), ("--num-classes", "-5"),
                                       ("--num-classes", "1000000000000")])
def test_synthetic_refuses_impossible_numbers(tmp_path, capsys, arguments):
    assert main(["synthetic", *arguments, "--out", str(tmp_path / "w")]) == 1
    assert arguments[1] in one_line(capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def spreads(tensors, picture):
    """Standard deviations after the stem and after each block, and the logits, of one (3, h, w) picture."""
    tensors = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    found = []

    def conv_norm(x, conv, norm, **options):
        statistics = (tensors[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(F.conv2d(x, tensors[f"{conv}.weight"], **options), *statistics)

    x = F.max_pool2d(F.relu(conv_norm(picture[None], "conv1", "bn1", stride=2, padding=3)), 3, 2, 1)
    found.append(float(x.std()))
    for stage, (blocks, _) in enumerate(architecture.STAGES, start=1):
        for block in range(blocks):
            prefix, stride = f"layer{stage}.{block}.", 2 if stage > 1 and block == 0 else 1
            y = F.relu(conv_norm(x, prefix + "conv1", prefix + "bn1"))
            y = F.relu(conv_norm(y, prefix + "conv2", prefix + "bn2", stride=stride, padding=1))
            y = conv_norm(y, prefix + "conv3", prefix + "bn3")
            if block == 0:
                x = conv_norm(x, prefix + "downsample.0", prefix + "downsample.1", stride=stride)
            x = F.relu(x + y)
            found.append(float(x.std()))
    return found, F.linear(x.mean((2, 3)), tensors["fc.weight"], tensors["fc.bias"])[0]


@pytest.mark.parametrize("size", [224, 32])
def test_synthetic_activations_stay_of_ordinary_size(size, synthetic_1000):
    """Through all fifty layers, for photographs and for noise; and different pictures are told apart."""
    from skimage import data
    photographs = [torch.from_numpy(photograph()) for photograph in (data.chelsea, data.coffee, data.astronaut)]
    pictures = [F.interpolate(photograph.permute(2, 0, 1)[None] / 255.0, (size, size), mode="bilinear")[0]
                for photograph in photographs]
    deviation = torch.tensor(IMAGENET_V1["std"])[:, None, None]
    mean = torch.tensor(IMAGENET_V1["mean"])[:, None, None]
    pictures = [(picture - mean) / deviation for picture in pictures]
    pictures.append(torch.randn(3, size, size, generator=torch.Generator().manual_seed(0)))
    classes = set()
    for picture in pictures:
        found, logits = spreads(synthetic_1000, picture)
        print(size, *(f"{spread:.2f}" for spread in [*found, logits.std()]))
        assert all(0.4 <= spread <= 2.5 for spread in found), found
        assert 0.5 <= logits.std() <= 5 and 1 <= logits.abs().max() <= 20
        classes.add(int(logits.argmax()))
    assert len(classes) == len(pictures)


# --- what is written ---

@QUICK
@given(labels=st.lists(st.text(max_size=20), min_size=1, max_size=12), seed=st.integers(0, 99),
       source=st.text(max_size=20))
def test_every_tensor_and_text_survives_the_round_trip(tiny, tmp_path_factory, labels, seed, source):
    out = tmp_path_factory.mktemp("out") / "weights with spaces"
    tensors = random_tensors(len(labels), seed)
    write_weights(out, tensors, source=source, labels=labels, preprocessing=IMAGENET_V1)
    manifest = check_directory(out, tensors)
    assert manifest["source"] == source and manifest["labels"] == labels
    assert manifest["preprocessing"] == IMAGENET_V1 and intact(out) == manifest


def test_full_size_synthetic_export_from_the_command_line(tmp_path):
    """From another working directory, into an oddly named path whose parents do not exist yet."""
    out = tmp_path / "a new" / os.fsdecode(b"weights directory \xe9")  # Latin-1, no valid UTF-8
    result = run("synthetic", "--seed", 5, "--num-classes", 3, "--out", out.relative_to(tmp_path), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "means nothing" in result.stdout and result.stderr == ""
    manifest = check_directory(out, synthetic(5, 3))
    assert manifest["source"] == "synthetic seed 5" and manifest["labels"] == ["class 0", "class 1", "class 2"]
    assert [path.name for path in out.parent.iterdir()] == [out.name]


# --- replacing, keeping, refusing ---

def export_tiny(out, seed=0, **options):
    write_weights(out, random_tensors(seed=seed), source=f"seed {seed}", labels=["a", "b", "c"],
                  preprocessing=IMAGENET_V1, **options)


def test_intact_weights_are_replaced_only_with_force(tiny, tmp_path, capsys):
    out = tmp_path / "w"
    export_tiny(out)
    assert main(["synthetic", "--seed", "9", "--out", str(out)]) == 1
    assert "--force" in one_line(capsys.readouterr().err)
    assert intact(out)["source"] == "seed 0"
    assert main(["auto", "--out", str(out)]) == 0
    assert "already holds intact weights (seed 0)" in capsys.readouterr().out
    assert main(["--force", "--out", str(out), "synthetic", "--seed", "9"]) == 0
    check_directory(out, synthetic(9, 1000))
    assert main(["synthetic", "--seed", "8", "--num-classes", "2", "--out", str(out), "--force"]) == 0
    check_directory(out, synthetic(8, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def _truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("name, damage", [("fc.bias.npy", Path.unlink), ("fc.bias.npy", _truncate),
                                          ("conv1.weight.npy", _flip_a_bit), ("conv1.weight.npy", _empty),
                                          ("manifest.json", Path.unlink), ("manifest.json", _truncate)])
def test_damaged_weights_are_replaced_without_force(tiny, tmp_path, name, damage):
    export_tiny(tmp_path / "w")
    damage(tmp_path / "w" / name)
    assert intact(tmp_path / "w") is None
    export_tiny(tmp_path / "w", seed=1)
    assert intact(tmp_path / "w")["source"] == "seed 1"


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children))


@QUICK
@given(field=st.sampled_from(["format", "source", "num_classes", "labels", "preprocessing", "tensors"]), value=JSON)
def test_any_manifest_is_judged_without_failing(tiny, tmp_path_factory, field, value):
    out = tmp_path_factory.mktemp("out") / "w"
    export_tiny(out)
    manifest = json.loads((out / "manifest.json").read_text())
    usable = (manifest[field] == value or (field == "source" and isinstance(value, str))
              or (field == "labels" and isinstance(value, list) and [type(label) for label in value] == [str] * 3))
    newer = field == "format" and isinstance(value, (int, float)) and value > 1
    (out / "manifest.json").write_text(json.dumps(manifest | {field: value}))
    assert (intact(out) is not None) == (usable or newer)


def test_weights_of_a_newer_format_are_kept_unless_forced(tiny, tmp_path):
    export_tiny(tmp_path / "w")
    path = tmp_path / "w" / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ExportError, match="--force"):
        export_tiny(tmp_path / "w", seed=1)
    export_tiny(tmp_path / "w", seed=1, force=True)
    assert intact(tmp_path / "w")["source"] == "seed 1"


@pytest.mark.parametrize("name", ["notes.txt", "my_data.npy", ".git", "weights"])
def test_a_directory_with_anything_else_is_never_replaced(tiny, tmp_path, name):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / name).write_text("precious")
    with pytest.raises(ExportError, match=name):
        export_tiny(tmp_path / "w", force=True)
    assert (tmp_path / "w" / name).read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_odd_places(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    assert main(["synthetic", "--out", str(tmp_path / "file")]) == 1
    assert "is a file" in one_line(capsys.readouterr().err)
    assert main(["synthetic", "--out", str(tmp_path / "file" / "below")]) == 1
    assert "file" in one_line(capsys.readouterr().err)
    assert main(["synthetic", "--out", str(tmp_path / ("long" * 100))]) == 1
    assert "too long" in one_line(capsys.readouterr().err)
    assert main(["synthetic", "--out", "/"]) == 1
    assert "choose another --out" in one_line(capsys.readouterr().err)
    assert (tmp_path / "file").read_text() == "precious"

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    export_tiny(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and intact(tmp_path / "elsewhere")["source"] == "seed 0"


@pytest.mark.parametrize("name, change, message", [
    ("fc.bias", lambda array: array[:-1], r"fc.bias is \(2,\), not \(3,\)"),
    ("bn1.weight", lambda array: array * np.nan, "bn1.weight holds NaN"),
    ("fc.weight", lambda array: array + np.inf, "fc.weight holds NaN, infinity"),
    ("bn1.running_var", lambda array: array - 2, "bn1.running_var holds a variance below zero"),
    ("conv1.weight", lambda array: array.transpose(0, 2, 3, 1), "conv1.weight is"),
])
def test_tensors_that_cannot_be_used_are_refused(tiny, tmp_path, name, change, message):
    tensors = random_tensors()
    tensors[name] = change(tensors[name])
    with pytest.raises(ExportError, match=message):
        write_weights(tmp_path / "w", tensors, source="", labels=["a", "b", "c"], preprocessing=IMAGENET_V1)
    assert not list(tmp_path.iterdir())


@settings(deadline=None)
@given(resize=st.integers(-10, 300), crop=st.integers(-10, 300),
       mean=st.lists(st.floats() | st.floats(0, 1), min_size=2, max_size=4),
       std=st.lists(st.floats() | st.floats(0, 1), min_size=2, max_size=4))
def test_preprocessing_is_accepted_exactly_when_pictures_can_be_prepared(resize, crop, mean, std):
    usable = (32 <= crop <= resize and len(mean) == len(std) == 3 and all(0 <= value <= 1 for value in mean)
              and all(1e-6 <= value <= 1e6 for value in std))
    try:
        check_preprocessing({"resize": resize, "crop": crop, "interpolation": "bilinear", "mean": mean, "std": std})
    except ExportError:
        assert not usable
    else:
        assert usable


# --- interruption ---

CRASH = '''
# Export over older weights again and again, and stop each time at another file operation.
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
parent, mode = Path(sys.argv[2]), sys.argv[3]
from common import architecture
from common.export_weights import synthetic, write_weights
from common.weights_on_disk import IMAGENET_V1, AlreadyThere, intact
architecture.STAGES, architecture.FEATURES = ((1, 2),), 8
os.fsync = lambda handle: None  # slow, and no matter to a process that dies
OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree", "os.listdir"}
out, tensors, point, events, renames = parent / "weights", synthetic(0, 3), None, 0, []

def stop(event, arguments):
    global events
    events += event in OPERATIONS
    if event == "os.rename":
        renames.append(events)
    if event in OPERATIONS and events == point:
        if mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyboardInterrupt if mode == "interrupt" else OSError(28, "No space left on device", str(out))

def export(source, force=True):
    write_weights(out, tensors, source=source, labels=list("abc"), preprocessing=IMAGENET_V1, force=force)

sys.addaudithook(stop)
export("old")
events = 0
export("old")
assert len(renames) == 3  # one the first time; then the old weights, and the new ones
steps = {*range(1, 8), *range(8, events, 20), *range(events - 5, events + 1)}
steps |= {renames[1] + near for near in range(-4, 8)}  # around the moment of replacement
counts = dict.fromkeys(["old", "new", "absent"], 0)
for where in sorted(steps):
    child = os.fork()
    if not child:
        events, point = 0, where
        try:
            export("new")
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.waitpid(child, 0)
    visible = [path.name for path in parent.iterdir() if not path.name.startswith(".")]
    found = intact(out)
    assert visible == (["weights"] if found else []), (where, visible)
    counts[found["source"] if found else "absent"] += 1
    if not found:  # between the two renames: the next export has to find the old weights
        try:
            export("newer", force=False)
        except AlreadyThere:
            assert intact(out)["source"] == "old"
    export("old")
    assert [path.name for path in parent.iterdir()] == ["weights"], where
print(json.dumps(counts))
'''


@pytest.mark.parametrize("mode", ["kill", "interrupt", "disk full"])
def test_an_export_stopped_at_any_file_operation_leaves_whole_weights(tmp_path, mode):
    result = subprocess.run([sys.executable, "-c", CRASH, ROOT, tmp_path, mode], capture_output=True, text=True,
                            timeout=120)
    assert result.returncode == 0, result.stderr
    counts = json.loads(result.stdout)
    print(mode, counts)
    assert counts["old"] > 12 and counts["new"] >= 8
    assert counts["absent"] == (1 if mode == "kill" else 0)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_leaves_the_old_weights(tiny, tmp_path, sign):
    out = tmp_path / "w"
    export_tiny(out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    process = subprocess.Popen([sys.executable, SCRIPT, "synthetic", "--num-classes", "2", "--out", out, "--force"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (partial := tmp_path / ".w.partial").is_dir() or len(list(partial.iterdir())) < 9:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(sign)
    _, errors = process.communicate(timeout=60)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    if sign == signal.SIGKILL:
        assert process.returncode == -sign and partial.is_dir()
    else:
        assert process.returncode == 130 and "interrupted" in one_line(errors)
        assert [path.name for path in tmp_path.iterdir()] == ["w"]
    export_tiny(out, seed=4, force=True)
    assert intact(out)["source"] == "seed 4" and [path.name for path in tmp_path.iterdir()] == ["w"]


def test_a_full_disk_leaves_the_old_weights(tiny, tmp_path):
    """A real failing write: the process may not make a file longer than 1 MiB."""
    out = tmp_path / "w"
    export_tiny(out)
    result = run("synthetic", "--out", out, "--force",
                 preexec_fn=lambda: __import__("resource").setrlimit(__import__("resource").RLIMIT_FSIZE, (2**20,) * 2))
    assert result.returncode == 1
    assert "is as it was before" in one_line(result.stderr)
    assert intact(out)["source"] == "seed 0" and [path.name for path in tmp_path.iterdir()] == ["w"]


CONCURRENT = '''
import os, sys
sys.path.insert(0, sys.argv[1])
from common import architecture, weights_on_disk
from common.export_weights import synthetic, write_weights
architecture.STAGES, architecture.FEATURES = ((1, 2),), 8
os.fsync = lambda handle: None
seed = int(sys.argv[3])
for _ in range(int(sys.argv[4])):
    try:
        write_weights(sys.argv[2], synthetic(seed, 3), source=str(seed), labels=list("abc"),
                      preprocessing=weights_on_disk.IMAGENET_V1, force=sys.argv[4] != "1")
        print("wrote")
    except weights_on_disk.AlreadyThere:
        print("kept")
'''


@pytest.mark.parametrize("rounds", [1, 4])
def test_concurrent_exports_take_turns(tiny, tmp_path, rounds):
    out = tmp_path / "w"
    processes = [subprocess.Popen([sys.executable, "-c", CONCURRENT, ROOT, out, str(seed), str(rounds)],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for seed in range(4)]
    answers = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, answers
    words = " ".join(answer for answer, _ in answers).split()
    assert words.count("wrote") == (1 if rounds == 1 else 16)  # without force the first one wins
    manifest = intact(out)
    check_directory(out, synthetic(int(manifest["source"]), 3))
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


# --- labels ---

LABEL = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs"]), min_size=1, max_size=15)


@QUICK
@given(labels=st.lists(LABEL.map(str.strip).filter(lambda label: label and label[0] != "\ufeff"), min_size=1),
       end=st.sampled_from(["\n", "\r\n"]), last=st.sampled_from(["", "\n", "\r\n", "\n\n"]),
       mark=st.sampled_from([b"", b"\xef\xbb\xbf"]))
def test_labels_are_read_one_a_line(tmp_path, labels, end, last, mark):
    (tmp_path / "labels.txt").write_bytes(mark + (end.join(labels) + last).encode())
    assert read_labels(tmp_path / "labels.txt") == labels


@pytest.mark.parametrize("content, message", [
    (b"", "line 1: a class name is missing"), (b"cat\n\ndog\n", "line 2: a class name is missing"),
    (b"caf\xe9\n", "not UTF-8"), (None, "No such file"),
])
def test_unusable_labels_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(ExportError, match=f"labels.txt.*{message}"):
        read_labels(tmp_path / "labels.txt")


# --- checkpoints ---

def test_checkpoint_from_the_command_line(random_model, random_checkpoint, tmp_path):
    out = tmp_path / "w"
    result = run("checkpoint", random_checkpoint, "--out", out, "--resize", 64, "--crop", 48,
                 "--mean", 0, 0.5, 1, "--std", 1, 0.5, 0.25)
    assert result.returncode == 0, result.stderr
    assert result.stderr == "" and "--labels" in result.stdout
    state_dict = {name: tensor.numpy() for name, tensor in random_model.state_dict().items()
                  if not name.endswith("num_batches_tracked")}
    manifest = check_directory(out, state_dict)
    assert manifest["source"] == "checkpoint my weights.pth"
    assert manifest["preprocessing"] == {"resize": 64, "crop": 48, "interpolation": "bilinear",
                                         "mean": [0, 0.5, 1], "std": [1, 0.5, 0.25]}


def _with_training_state(state_dict):
    import argparse
    return {"model": state_dict, "epoch": 3, "args": argparse.Namespace(lr=0.1, output_dir="."),
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}}


def _with_prefix(state_dict):
    return {f"module.{name}": tensor for name, tensor in state_dict.items()}


def _with_counters(state_dict):
    return state_dict | {"bn1.num_batches_tracked": torch.tensor(5)}


WRAPS = [lambda state_dict: state_dict, lambda state_dict: {"state_dict": state_dict}, _with_training_state,
         lambda state_dict: {"model_state_dict": state_dict}, _with_prefix, _with_counters,
         lambda state_dict: {"state_dict": _with_prefix(_with_counters(state_dict))}]


@QUICK
@given(wrap=st.sampled_from(WRAPS),
       dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
       num_classes=st.integers(1, 30), zipped=st.booleans(), channels_last=st.booleans())
def test_checkpoints_of_every_usual_form(tiny, tmp_path, wrap, dtype, num_classes, zipped, channels_last):
    state_dict = {name: torch.from_numpy(array).to(dtype) for name, array in random_tensors(num_classes).items()}
    if channels_last:
        state_dict = {name: tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
                      for name, tensor in state_dict.items()}
    file = save(state_dict, tmp_path / "model.pth", wrap, _use_new_zipfile_serialization=zipped)
    arrays = pretrained.checkpoint(file)
    assert list(arrays) == list(state_dict)
    for name, array in arrays.items():
        assert array.dtype == np.float32 and np.array_equal(array, state_dict[name].float().numpy()), name


def test_checkpoint_with_labels(tiny, tmp_path, capsys):
    file = save(random_tensors(3), tmp_path / "model.pth")
    labels = tmp_path / "labels.txt"
    labels.write_text("Katze\nchat\nネコ\n", encoding="utf-8")
    assert main(["checkpoint", str(file), "--labels", str(labels), "--out", str(tmp_path / "w")]) == 0
    manifest = check_directory(tmp_path / "w", random_tensors(3))
    assert manifest["labels"] == ["Katze", "chat", "ネコ"] and manifest["preprocessing"] == IMAGENET_V1
    capsys.readouterr()
    odd = save(random_tensors(3), tmp_path / os.fsdecode(b"caf\xe9.pth"))  # no valid UTF-8, as old disks have it
    export = export_weights.from_checkpoint(odd, labels)
    write_weights(tmp_path / "u", export.tensors, source=export.source, labels=export.labels,
                  preprocessing=export.preprocessing)
    assert intact(tmp_path / "u")["source"] == f"checkpoint {odd.name}"
    labels.write_text("cat\ndog\n")
    assert main(["checkpoint", str(file), "--labels", str(labels), "--out", str(tmp_path / "v")]) == 1
    assert "labels.txt has 2 labels for 3 classes" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("name, faults", [
    ("resnet18", ["layer1.0.conv1.weight is (64, 64, 3, 3), not (64, 64, 1, 1)"]),
    ("resnet101", ["layer3.6.conv1.weight is not part of it"]),
    ("wide_resnet50_2", ["layer1.0.conv1.weight is (128, 64, 1, 1), not (64, 64, 1, 1)"]),
    ("resnext50_32x4d", ["layer1.0.conv1.weight is (128, 64, 1, 1), not (64, 64, 1, 1)"]),
    ("vgg11", ["conv1.weight is missing", "more"]),
])
def test_other_architectures_are_refused_by_name(tmp_path, capsys, name, faults):
    with torch.device("meta"):
        model = getattr(pretrained.import_torchvision().models, name)(weights=None)
    file = save({name: torch.zeros(()).expand(tensor.shape) for name, tensor in model.state_dict().items()},
                tmp_path / "other.pth")
    assert main(["checkpoint", str(file), "--out", str(tmp_path / "w")]) == 1
    message = one_line(capsys.readouterr().err)
    assert "other.pth: not a ResNet-50" in message and all(fault in message for fault in faults), message
    assert not (tmp_path / "w").exists()


@QUICK
@given(data=st.data())
def test_a_checkpoint_that_does_not_fit_names_the_tensor(tiny, tmp_path, data):
    tensors = {name: torch.from_numpy(array) for name, array in random_tensors(3).items()}
    name = data.draw(st.sampled_from(sorted(tensors)))
    changes = {
        "missing": lambda: tensors.pop(name),
        "extra": lambda: tensors.update({f"{name}.extra": torch.zeros(1)}),
        "longer": lambda: tensors.update({name: torch.cat([tensors[name]] * 2)}),
        "flat": lambda: tensors.update({name: tensors[name].sum()}),
        "integer": lambda: tensors.update({name: tensors[name].to(torch.int32)}),
        "complex": lambda: tensors.update({name: tensors[name].to(torch.complex64)}),
        "sparse": lambda: tensors.update({name: tensors[name].to_sparse()}),
        "no tensor": lambda: tensors.update({name: 3}),
        "nan": lambda: tensors.update({name: tensors[name] * float("nan")}),
        "overflow": lambda: tensors.update({name: tensors[name].double().sign() * 1e39}),
        "infinity": lambda: tensors.update({name: tensors[name] * float("inf")}),
    }
    changes[data.draw(st.sampled_from(sorted(changes)))]()
    file = save_anything(tensors, tmp_path / "bad.pth")
    with pytest.raises(ExportError) as caught:
        pretrained.checkpoint(file)
    message = str(caught.value)
    assert "bad.pth: " in message and "\n" not in message
    assert name in message or "fc." in message  # a changed fc.weight changes what fc.bias must be


def save_anything(content, path):
    torch.save(content, path)
    return path


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def unreadable_files(directory):
    whole = save_anything({"weight": torch.zeros(20000)}, directory / "whole").read_bytes()
    legacy = directory / "legacy"
    torch.save({"weight": torch.zeros(20000)}, legacy, _use_new_zipfile_serialization=False)
    contents = {"empty": b"", "text": b"these are no weights\n", "noise": bytes(range(256)) * 9,
                "truncated": whole[:len(whole) // 2], "legacy truncated": legacy.read_bytes()[:20000],
                "pickle": pickle.dumps(Payload(directory / "executed")), "json": b'{"conv1.weight": [1]}'}
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    save_anything(Payload(directory / "executed"), directory / "code")
    save_anything(torch.nn.Linear(2, 2), directory / "module")
    save_anything({"model": torch.nn.Linear(2, 2)}, directory / "wrapped module")
    torch.jit.script(torch.nn.Linear(2, 2)).save(directory / "script")
    np.savez(directory / "numpy.npz", weight=np.zeros(3))
    save_anything([torch.zeros(2)], directory / "list")
    save_anything({"state_dict": {}}, directory / "nothing")
    return [*contents, "code", "module", "wrapped module", "script", "numpy.npz", "list", "nothing", "absent", "."]


def test_files_that_are_no_checkpoint(tmp_path, capsys, recwarn):
    for name in unreadable_files(tmp_path):
        assert main(["checkpoint", str(tmp_path / name), "--out", str(tmp_path / "w")]) == 1
        message = one_line(capsys.readouterr().err)
        assert str(tmp_path / name) in message, message
        assert "weights_only=False" not in message
        if name in ("code", "module", "wrapped module"):
            assert "Python objects (" in message
    assert not (tmp_path / "executed").exists() and not (tmp_path / "w").exists()


@QUICK
@given(content=st.binary(max_size=300), start=st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04"]))
def test_arbitrary_bytes_are_no_checkpoint(tmp_path, content, start):
    (tmp_path / "file").write_bytes(start + content)
    with pytest.raises(ExportError, match="file: "):
        pretrained.checkpoint(tmp_path / "file")


@pytest.mark.parametrize("options, message", [
    (["--crop", "300"], "crop 300 is larger than resize 256"), (["--crop", "31"], "32 or more"),
    (["--resize", "100"], "crop 224 is larger than resize 100"), (["--std", "0.1", "0", "0.1"], "above 0"),
    (["--std", "nan", "1", "1"], "above 0"), (["--mean", "123.7", "116.3", "103.5"], "from 0 to 1"),
])
def test_impossible_preprocessing_is_refused_before_anything_is_read(tmp_path, capsys, options, message):
    assert main(["checkpoint", str(tmp_path / "absent"), "--out", str(tmp_path / "w"), *options]) == 1
    assert message in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [["checkpoint"], ["checkpoint", "f", "--mean", "1", "2"], ["magic"],
                                       ["checkpoint", "f", "--crop", "big"], ["torchvision", "--tag", "V9"],
                                       ["synthetic", "--seed", "1.5"], ["synthetic", "--labels", "f"]])
def test_a_wrong_command_line_is_explained(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


# --- torchvision's weights, and what happens without them ---

@pytest.fixture(scope="session")
def published(random_checkpoint, tmp_path_factory):
    """A local copy of what torchvision would download: a state dict named after its hash."""
    digest = hashlib.sha256(random_checkpoint.read_bytes()).hexdigest()[:8]
    path = tmp_path_factory.mktemp("server") / f"resnet50-{digest}.pth"
    os.link(random_checkpoint, path)
    return path


@pytest.fixture
def publish(monkeypatch, tmp_path):
    """publish(url) makes torchvision fetch both sets of weights from there, into a cache of its own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))

    def at(url):
        for tag in export_weights.TAGS:
            monkeypatch.setattr(pretrained.import_torchvision().models.ResNet50_Weights[tag].value, "url", url)
    return at


def test_torchvision_weights_are_downloaded_and_exported(random_model, published, publish, tmp_path, capsys):
    publish(published.as_uri())
    assert main(["--out", str(tmp_path / "w")]) == 0  # auto finds them
    assert "wrote" in (printed := capsys.readouterr()).out and "error" not in printed.err
    manifest = check_directory(tmp_path / "w", {name: tensor.numpy() for name, tensor in
                                                random_model.state_dict().items()
                                                if not name.endswith("num_batches_tracked")})
    assert manifest["source"] == "torchvision IMAGENET1K_V2"
    assert manifest["labels"][281] == "tabby" and manifest["labels"][504] == "coffee mug"
    assert manifest["preprocessing"] == {**IMAGENET_V1, "resize": 232}
    published_again = published.with_name("gone.pth")
    publish(published_again.with_name(published.name).as_uri())
    _, _, preprocessing = pretrained.pretrained("IMAGENET1K_V1")  # from the cache
    assert preprocessing == IMAGENET_V1


def test_a_damaged_download_is_refused(published, publish, tmp_path, capsys):
    wrong = tmp_path / "resnet50-00000000.pth"
    wrong.write_bytes(b"a captive portal's login page")
    publish(wrong.as_uri())
    assert main(["torchvision", "--out", str(tmp_path / "w")]) == 1
    progress, _, message = capsys.readouterr().err.strip().rpartition("\n")
    assert "29.0" in progress and "invalid hash value" in one_line(message)
    assert not list((tmp_path / "cache").rglob("*.p*"))  # neither the file nor a part of it


def test_a_damaged_cache_is_named(published, publish, tmp_path, capsys):
    publish(published.as_uri())
    cached = tmp_path / "cache" / "hub" / "checkpoints" / published.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(published.read_bytes()[:1000])
    assert main(["torchvision", "--tag", "IMAGENET1K_V1", "--out", str(tmp_path / "w")]) == 1
    assert f"{cached} is damaged: delete it" in one_line(capsys.readouterr().err)


class NothingHere(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def log_message(self, *arguments):
        """Keep the test's standard error for the exporter."""


@pytest.fixture
def servers():
    """Addresses that answer 404, that never answer, that refuse, and whose name does not exist."""
    missing = http.server.HTTPServer(("127.0.0.1", 0), NothingHere)
    threading.Thread(target=missing.serve_forever, daemon=True).start()
    silent = socket.create_server(("127.0.0.1", 0))
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    yield [f"http://127.0.0.1:{place.getsockname()[1]}" for place in (missing.socket, silent, closed)] + [
        "https://no-such-host.invalid"]
    missing.shutdown()
    missing.server_close()
    silent.close()
    closed.close()


def test_without_network_one_line_says_what_to_do(servers, publish, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretrained, "TIMEOUT", 0.3)
    for server in servers:
        url = f"{server}/resnet50-0676ba61.pth"
        publish(url)
        assert main(["torchvision", "--out", str(tmp_path / "w")]) == 1
        message = one_line(capsys.readouterr().err)
        assert f"cannot fetch {url}" in message and "resnet50-0676ba61.pth, and run this again" in message
    assert socket.getdefaulttimeout() is None
    assert not (tmp_path / "w").exists() and not list(tmp_path.rglob("*.pth"))


def test_auto_falls_back_loudly_and_never_over_intact_weights(
        tiny, servers, publish, tmp_path, capsys, monkeypatch):
    publish(f"{servers[2]}/resnet50-0676ba61.pth")
    monkeypatch.setattr(export_weights, "DEMO", tmp_path / "demo.npz")
    out = tmp_path / "w"
    assert main(["auto", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "no torchvision weights: cannot fetch" in printed.err and "no demo weights: " in printed.err
    assert "synthetic seed 0" in printed.out and "means nothing" in printed.out and "torchvision" in printed.out
    export_tiny(out, seed=5, force=True)
    assert main(["--force", "--out", str(out)]) == 1
    assert "keeps its intact weights (seed 5)" in capsys.readouterr().err
    assert intact(out)["source"] == "seed 5"
    pack(random_tensors(), ["a", "b", "c"], 64, tmp_path / "demo.npz")
    assert main(["--out", str(tmp_path / "v")]) == 0
    assert "demo, 3 classes" in capsys.readouterr().out and intact(tmp_path / "v")["source"] == "demo"


@pytest.mark.parametrize("module", ["torch", "torchvision"])
def test_without_pytorch_one_line_says_how_to_get_it(tiny, module, monkeypatch, tmp_path, capsys):
    pretrained.import_torchvision()
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    assert main(["torchvision", "--out", str(tmp_path / "w")]) == 1
    assert f"needs {'PyTorch' if module == 'torch' else 'torchvision'}" in (
        message := one_line(capsys.readouterr().err)) and "make weights" in message
    monkeypatch.setattr(export_weights, "DEMO", tmp_path / "demo.npz")
    assert main(["--out", str(tmp_path / "w")]) == 0
    assert "synthetic" in capsys.readouterr().out
    if module == "torch":
        assert main(["checkpoint", "file.pth", "--out", str(tmp_path / "v")]) == 1
        assert "needs PyTorch" in one_line(capsys.readouterr().err)


def test_a_packed_model_is_unpacked_with_its_classes_and_picture_size(tiny, tmp_path, capsys):
    tensors = random_tensors()
    pack(tensors, ["aé", "b", "c"], 56, tmp_path / "my.npz")
    assert main(["demo", str(tmp_path / "my.npz"), "--out", str(tmp_path / "w")]) == 0
    assert "packed my.npz, 3 classes" in capsys.readouterr().out
    manifest = intact(tmp_path / "w")
    assert manifest["labels"] == ["aé", "b", "c"]
    assert manifest["preprocessing"] == IMAGENET_V1 | {"resize": 56, "crop": 56}
    for name, array in tensors.items():
        stored = np.load(tmp_path / "w" / f"{name}.npy")
        if array.ndim == 4:
            off = np.abs(stored.transpose(0, 3, 1, 2) - array).max(axis=(1, 2, 3))
            largest = np.abs(array).max(axis=(1, 2, 3))
            assert (off <= largest / 254 * (1 + 1e-5)).all()
        else:
            np.testing.assert_array_equal(stored, array)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32), st.floats(-30, 30))
def test_quantizing_is_off_by_half_a_step_at_most(out, channels, side, seed, exponent):
    rng = np.random.default_rng(seed)
    kernel = (rng.standard_normal((out, channels, side, side)) * 10.0**exponent).astype(np.float32)
    kernel[rng.random(out) < 0.3] = 0
    stored, scale = quantize(kernel)
    assert stored.dtype == np.int8 and scale.dtype == np.float32 and np.isfinite(scale).all() and (scale > 0).all()
    steps = scale.astype(np.float64)[:, None, None, None]
    assert (np.abs(stored * steps - kernel) <= (0.5 + 1e-5) * steps).all()
    used = np.abs(kernel).max(axis=(1, 2, 3)) > 0
    assert (np.abs(stored[used].astype(int)).max(axis=(1, 2, 3), initial=0) == 127).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_int8_cannot_show_is_not_packed(tiny, wrong, tmp_path):
    tensors = random_tensors()
    tensors["conv1.weight"][1, 0, 0, 0] = wrong
    with pytest.raises(ExportError, match=r"conv1\.weight holds NaN"):
        pack(tensors, ["a", "b", "c"], 64, tmp_path / "my.npz")
    assert not (tmp_path / "my.npz").exists()


def test_a_damaged_packed_model_is_one_clear_error_and_nothing_is_lost(tiny, tmp_path, capsys):
    good = tmp_path / "good.npz"
    pack(random_tensors(), ["a", "b", "c"], 64, good)
    content = good.read_bytes()
    bad = {"empty": b"", "cut": content[: len(content) // 2], "text": b"no archive", "npy": _npy(np.arange(3)),
           "flipped": content[:5000] + bytes(byte ^ 255 for byte in content[5000:5400]) + content[5400:]}
    out = tmp_path / "w"
    export_tiny(out, seed=5)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    paths = [tmp_path / "missing.npz"]
    for name, damaged in bad.items():
        paths.append(tmp_path / f"{name}.npz")
        paths[-1].write_bytes(damaged)
    with np.load(good) as arrays:
        whole = dict(arrays)
    wrong = {"classes": {"description": json.dumps({"labels": ["a"], "size": 64})},
             "size": {"description": json.dumps({"labels": ["a", "b", "c"], "size": 8})},
             "list": {"description": "[]"}, "shape": {"conv1.weight": whole["conv1.weight"][:, :, 1:]},
             "scale": {"conv1.weight.scale": whole["conv1.weight.scale"][1:]},
             "objects": {"conv1.weight": np.array([{}], dtype=object)}}
    for name, change in wrong.items():
        paths.append(tmp_path / f"{name}.npz")
        np.savez(paths[-1], **(whole | change))
    for path in paths:
        assert main(["demo", str(path), "--out", str(out), "--force"]) == 1, path
        assert one_line(capsys.readouterr().err), path
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def _npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_operators_are_declared_only_after_exactly_one_error(monkeypatch):
    declared, failures = [], []

    def importing():
        if failures:
            raise failures.pop(0)
        return "torchvision"

    monkeypatch.setattr(pretrained, "_import_torchvision", importing)
    monkeypatch.setattr(pretrained, "_declare_missing_operators", lambda: declared.append(True))
    assert pretrained.import_torchvision() == "torchvision" and not declared
    failures.append(RuntimeError("operator torchvision::roi_align does not exist\nand a second line"))
    with pytest.raises(ExportError, match="roi_align") as caught:
        pretrained.import_torchvision()
    assert "\n" not in str(caught.value) and not declared
    failures.append(RuntimeError("operator torchvision::nms does not exist"))
    assert pretrained.import_torchvision() == "torchvision" and len(declared) == 1


def test_the_help_describes_every_source(capsys):
    for arguments in ([], ["auto"], ["torchvision"], ["checkpoint"], ["synthetic"], ["demo"]):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--help"])
        assert stopped.value.code == 0
        printed = capsys.readouterr().out
        assert "--out DIR" in printed and "--force" in printed
        assert arguments or all(word in printed for word in ("torchvision", "checkpoint", "synthetic", "demo"))
