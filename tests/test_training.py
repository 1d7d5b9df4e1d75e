"""Training a small model: the pictures that are found, the batches made of them, steps, resuming, and the result."""

import io
import json
import math
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from common.packed import pack
from common.torchvision_import import import_torchvision
from common.versions import ROOT, load_version
from common.weights_file import IMAGENET_V1, ExportError
from tests.conftest import SEED
from training import batches, evaluate, train
from training.gemm_conv import GemmConv2d
from training.pictures import DataError, find

CLASSES = {"n01": "goldfish, Carassius auratus", "n02": "tabby, tabby cat"}
SEEDS = st.integers(0, 2**32)
CPU = torch.device("cpu")


def save_picture(path, rng, side=64, **options):
    """A picture of big random spots."""
    path.parent.mkdir(parents=True, exist_ok=True)
    spots = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    spots.resize((side, side)).save(path, "JPEG", quality=95, **options)


def tiny_imagenet(root, rng):
    """Write the form in which tiny-imagenet-200 is distributed, with two classes."""
    for wnid in CLASSES:
        for number in range(3):
            save_picture(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", rng)
    lines = []
    for number, wnid in enumerate([*CLASSES, *reversed(CLASSES)]):
        save_picture(root / "val" / "images" / f"val_{number}.JPEG", rng)
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(CLASSES) + "\n")
    (root / "words.txt").write_text("".join(f"{wnid}\t{words}\n" for wnid, words in CLASSES.items()) + "n03\tdog\n")
    return root


def archive(path, pictures):
    """Write pictures as one of the archives into which tiny-imagenet-200 can be packed."""
    path.parent.mkdir(exist_ok=True)
    files, labels = [file.read_bytes() for file, _ in pictures], [label for _, label in pictures]
    np.savez(path, jpeg=np.frombuffer(b"".join(files), np.uint8), offsets=np.cumsum([0, *map(len, files)]),
             labels=np.array(labels, np.int16), names=np.array(list(CLASSES.values())))  # fmt: skip


def class_directories(root, rng, count, names=("cats", "dogs"), side=64):
    for name in names:
        for number in range(count):
            save_picture(root / name / f"{number:02}.jpg", rng, side)
    return root


def test_both_forms_of_tiny_imagenet_are_the_same(tmp_path, rng):
    pictures, held_out, names = find(tiny_imagenet(tmp_path / "unpacked", rng))
    assert names == ["goldfish", "tabby"]
    assert [(file.name[:3], label) for file, label in pictures] == [("n01", 0)] * 3 + [("n02", 1)] * 3
    assert [(file.name, label) for file, label in held_out] == [(f"val_{n}.JPEG", n in (1, 2)) for n in range(4)]
    for name, part in (("val", held_out), ("train-0", pictures[:4]), ("train-1", pictures[4:])):
        archive(tmp_path / "packed" / f"{name}.npz", part)
    *packed, packed_names = find(tmp_path / "packed")
    assert packed_names == names
    for found, expected in zip(packed, (pictures, held_out), strict=True):
        assert [(file.getvalue(), label) for file, label in found] == [(f.read_bytes(), label) for f, label in expected]


def test_of_class_directories_every_tenth_picture_is_held_out(tmp_path, rng):
    class_directories(tmp_path, rng, 12, side=8)
    (tmp_path / "cats" / "Thumbs.db").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no class")
    pictures, held_out, names = find(tmp_path)
    assert names == ["cats", "dogs"] and len(pictures) == 20 and not set(pictures) & set(held_out)
    held_out = [(file.parent.name, file.name, label) for file, label in held_out]
    assert held_out == [(name, file, label) for label, name in enumerate(names) for file in ("00.jpg", "10.jpg")]


def broken_png(root, rng):
    file = class_directories(root, rng, 3) / "dogs" / "01.png"
    Image.new("RGB", (8, 8)).save(file)
    file.write_bytes(file.read_bytes().replace(b"IDAT", bytes(4)))


@pytest.mark.parametrize("spoil, message", [
    (lambda path, rng: path.rmdir(), "cannot be read"),
    (lambda path, rng: None, "needs a directory for each of two classes"),
    (lambda path, rng: class_directories(path, rng, 2, ["cats"]), "needs a directory for each of two classes"),
    (lambda path, rng: class_directories(path, rng, 1), "a class needs two pictures"),
    (lambda path, rng: (class_directories(path, rng, 3) / "dogs" / "01.jpg").write_text("x"), "not a readable picture"),
    (lambda path, rng: (path / "wnids.txt").write_text("n01\n"), "cannot be read"),
    (lambda path, rng: broken_png(path, rng), "not a readable picture"),
    (lambda path, rng: (path / "val.npz").write_bytes(b"PK\x03\x04 no archive"), "cannot be read"),
    (lambda path, rng: archive(path / "val.npz", find(tiny_imagenet(path, rng))[1]), "no train-")])  # fmt: skip
def test_what_cannot_be_trained_on_is_one_clear_error(spoil, message, tmp_path, rng):
    path = tmp_path / "data"
    path.mkdir()
    spoil(path, rng)
    with pytest.raises(DataError, match=message) as caught:
        batches.decode(find(path)[0])
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_pictures_are_decoded_as_the_versions_do(tmp_path, rng):
    """What the network sees in training is what infer.py shows it: upright, the middle square, normalised."""
    rotated = Image.Exif()
    rotated[0x0112] = 6
    for name, options in (("upright", {}), ("rotated", {"exif": rotated}), ("large", {"side": 100})):
        save_picture(tmp_path / f"{name}.jpg", rng, **options)
    Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(tmp_path / "gray.png")
    files = sorted(tmp_path.iterdir())
    dataset = batches.decode([(file, number) for number, file in enumerate(files)])
    assert dataset.labels.tolist() == [0, 1, 2, 3]
    inputs = batches.prepare(dataset.pixels, 64, CPU).permute(0, 2, 3, 1).numpy()
    image = load_version("v2_vectorized").image
    for seen, file in zip(inputs, files):
        expected = image.load_image(file, IMAGENET_V1 | {"resize": 64, "crop": 64})
        np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-6)


def test_augmenting_moves_whole_pictures_by_every_shift_and_mirrors_half():
    shift, shape = batches.SHIFT, (3, 8, 9)
    pixels = torch.randint(256, (500, *shape), dtype=torch.uint8, generator=batches.generator(SEED, 0))
    moved = batches.augment(pixels, batches.generator(SEED, 1))
    assert moved.dtype == torch.uint8 and moved.shape == pixels.shape
    found = []
    for before, after in zip(pixels.numpy(), moved.numpy()):
        padded = np.pad(before, ((0, 0), (shift, shift), (shift, shift)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, shape)[0]
        both = np.stack([windows, windows[..., ::-1]])
        found.append(np.argwhere((both == after).all(axis=(3, 4, 5)))[0])
    mirrored, down, right = zip(*found)
    assert set(down) == set(right) == set(range(2 * shift + 1)) and 190 < sum(mirrored) < 310


@given(SEEDS, st.integers(8, 64))
def test_varying_shows_a_part_of_each_picture(seed, side):
    """Of a gray picture that is brighter the further right and the further down."""
    ramp = torch.linspace(40, 80, side)
    pixels = (ramp + ramp[:, None]).to(torch.uint8).repeat(3, 3, 1, 1)
    parts = batches.vary(pixels, torch.Generator().manual_seed(seed)).double()
    assert parts.min() > 0.8 * 80 - 1 and parts.max() < 1.2 * 160 + 1
    rightwards, steps = parts.mean(dim=2), parts.mean(dim=2).diff(dim=2)
    assert (parts.mean(dim=3).diff(dim=2) > -1).all()
    assert ((steps > -1).all(dim=2) | (steps < 1).all(dim=2)).all()  # mirrored or not, in one piece
    # A side is at least 0.35 * 3/4 square-rooted, so half of the ramp's 40; in light of 0.8; three numbers are rounded.
    assert ((rightwards[:, :, 0] - rightwards[:, :, -1]).abs() > 0.8 * 0.5 * 40 * (side - 2) / side - 2).all()


def test_varying_changes_saturation_and_light():
    """Of pictures of one colour, whose green is also their gray: saturation leaves that alone."""
    pixels = torch.tensor([150, 100, 50], dtype=torch.uint8)[:, None, None].repeat(1000, 1, 8, 8)
    red, green, blue = batches.vary(pixels, batches.generator(SEED, 0))[:, :, 0, 0].double().unbind(1)
    for channel, low, high in ((red, 100, 210), (green, 80, 120), (blue, 20, 90)):
        span = 0.15 * (high - low)  # so near to the ends at least one in 1000 comes
        assert low - 1 <= channel.min() < low + span and high - span < channel.max() <= high + 1
    assert torch.corrcoef(torch.stack([green, red]))[0, 1].abs() < 0.3  # each channel has a gain of its own


def test_an_epoch_shows_every_picture_at_most_once():
    first, second = (torch.cat(batches.shuffled(10, 3, epoch, SEED)).tolist() for epoch in (0, 1))
    assert len(first) == len(set(first)) == 9 and set(first) <= set(range(10)) and first != second


@given(st.sampled_from([(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)]), st.integers(1, 3), st.integers(1, 7),
       st.integers(1, 7), SEEDS)  # fmt: skip
def test_gemm_convolution_equals_convolution(kernel, count, height, width, seed):
    torch.manual_seed(seed)
    side, stride = kernel
    ours = GemmConv2d(5, 4, side, stride=stride, padding=side // 2, bias=False, dtype=torch.float64)
    ours = ours.to(memory_format=torch.channels_last)
    x = torch.randn(count, 5, height, width, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = ours.weight.detach().clone().requires_grad_()
    y, expected = ours(mine), functional.conv2d(theirs, weight, stride=stride, padding=side // 2)
    towards = torch.randn_like(expected)
    y.backward(towards)
    expected.backward(towards)
    for found, right in ((y, expected), (mine.grad, theirs.grad), (ours.weight.grad, weight.grad)):
        torch.testing.assert_close(found, right, check_stride=False)


def small_training(epochs, pictures=12, batch=4, labels=("cats", "dogs"), start=None):
    pixels = torch.randint(256, (pictures, 3, 64, 64), dtype=torch.uint8, generator=batches.generator(SEED, 3))
    options = Namespace(epochs=epochs, batch=batch, rate=0.02, decay=0.1, seed=SEED, start=start)
    return train.Training(options, batches.Dataset(pixels, torch.arange(pictures) % 2), list(labels), CPU)


def weights_of(training):
    state = training.optimizer.state_dict()["state"].values()
    return [*training.model.state_dict().values(), *(entry["momentum_buffer"] for entry in state)]


def test_the_learning_rate_rises_stays_and_falls_and_pictures_grow():
    training = small_training(14, pictures=400)
    rates, sizes = [], []
    for step in range(training.steps):
        training.step = step
        rates.append(training.learning_rate())
        sizes.append(training.phase(step).size)
    rise, stay, fall = np.split(rates, [training.per_epoch, training.cool_down])
    assert rise[0] == 0 and (np.diff(rise) > 0).all() and set(stay) == {0.02}
    assert np.allclose(np.diff(fall), -fall[-1]) and fall[-1] > 0
    assert set(sizes[: training.cool_down]) == {32} and sizes == sorted(sizes) and set(sizes) == {32, 48, 64}


def test_a_step_is_that_of_plain_pytorch(monkeypatch):
    """Nesterov's first step, written out: 1.9 gradients, with weight decay in those of kernels only."""
    monkeypatch.setattr(train, "has_bfloat16", lambda device: False)
    training = small_training(4)
    training.step = training.per_epoch  # the learning rate has risen
    training.model.double()
    plain = import_torchvision().models.resnet50(num_classes=2).double()
    state = {name: tensor + 0.3 * name.endswith("bn3.weight") for name, tensor in training.model.state_dict().items()}
    training.model.load_state_dict(state)  # a last gain of zero would hide the branches' gradients
    plain.load_state_dict(state)
    pictures, labels = training.batch()
    monkeypatch.setattr(training, "batch", lambda: (pictures.double(), labels))
    loss = functional.cross_entropy(plain(pictures.double()), labels, label_smoothing=0.1)
    loss.backward()
    assert math.isclose(training.take_step()[0], loss.detach(), rel_tol=1e-6)
    for (name, before), after in zip(plain.named_parameters(), training.model.parameters()):
        expected = -0.02 * 1.9 * (before.grad + 0.1 * before * (before.ndim > 1))
        assert (after - before - expected).norm() <= 1e-6 * expected.norm(), name


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole, second = small_training(2), small_training(2)
    for _ in range(3):
        whole.take_step()
    whole.save(tmp_path / "checkpoint.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    second.resume(tmp_path)
    assert second.step == 3 and whole.steps == 6
    for _ in range(2):
        assert torch.equal(whole.take_step(), second.take_step())
    assert all(torch.equal(a, b) for a, b in zip(weights_of(whole), weights_of(second), strict=True))


def test_a_training_can_be_made_longer_until_it_cools_down(tmp_path):
    begun = small_training(4)  # 12 steps; the learning rate falls from the 7th on
    begun.step = begun.cool_down
    begun.save(tmp_path / "before_cool_down.pt")
    begun.step = begun.steps
    begun.save(tmp_path / "checkpoint.pt")
    for epochs, step in ((8, begun.cool_down), (4, begun.steps)):
        longer = small_training(epochs)
        longer.resume(tmp_path)
        assert longer.step == step
    with pytest.raises(DataError, match="too far on for other --epochs"):
        small_training(2).resume(tmp_path)
    with pytest.raises(DataError, match="other pictures or options"):
        small_training(4, labels=("owls", "dogs")).resume(tmp_path)


def test_a_damaged_checkpoint_makes_room_for_the_one_before(tmp_path, capsys):
    begun = small_training(4)
    begun.step = begun.cool_down
    begun.save(tmp_path / "before_cool_down.pt")
    (tmp_path / "checkpoint.pt").write_bytes((tmp_path / "before_cool_down.pt").read_bytes()[:100_000])
    again = small_training(4)
    again.resume(tmp_path)
    assert again.step == begun.cool_down and "checkpoint.pt is damaged" in capsys.readouterr().err
    (tmp_path / "before_cool_down.pt").unlink()
    with pytest.raises(DataError, match="no intact checkpoint"):
        small_training(4).resume(tmp_path)


def test_pictures_with_16_bits_of_gray_are_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    (pixels,) = batches.decode([(tmp_path / "ramp.png", 0)]).pixels
    assert abs(pixels.double().mean() - 127.5) < 1


def test_a_fine_tuning_is_not_begun_anew_with_other_epochs(tmp_path):
    torch.save(small_training(1).model.state_dict(), tmp_path / "resnet50.pth")
    begun = small_training(1, start=tmp_path / "resnet50.pth")
    train.run(begun, begun.dataset, tmp_path)
    with pytest.raises(DataError, match="too far on for other --epochs"):
        small_training(2, start=tmp_path / "resnet50.pth").resume(tmp_path)


def test_fine_tuning_starts_from_trained_weights_and_only_slows_down(tmp_path):
    trained = small_training(1).model.state_dict()
    kernel = trained["layer4.2.conv3.weight"]
    torch.save(trained, tmp_path / "resnet50.pth")
    tuned = small_training(4, start=tmp_path / "resnet50.pth")
    assert all(map(torch.equal, tuned.model.state_dict().values(), trained.values()))
    assert tuned.learning_rate() == 0.02 and tuned.phase(0) == (0.65, 48, batches.vary)
    assert tuned.phase(tuned.steps - 1) == (1.0, 80, batches.augment)
    tuned.step = tuned.steps // 2
    assert tuned.learning_rate() == 0.01
    others = small_training(4, start=tmp_path / "resnet50.pth", labels=("cats", "dogs", "owls")).model.state_dict()
    assert len(others["fc.bias"]) == 3 and torch.equal(others["layer4.2.conv3.weight"], kernel)
    arrays = {name: tensor.numpy() for name, tensor in trained.items() if not name.endswith("num_batches_tracked")}
    pack(arrays, ["cats", "dogs"], 64, tmp_path / "resnet50.npz")
    packed = small_training(1, start=tmp_path / "resnet50.npz").model.state_dict()["layer4.2.conv3.weight"]
    assert 0 < (packed - kernel).abs().max() < 0.5001 * kernel.abs().max() / 127
    del arrays["layer1.0.conv1.weight"]
    pack(arrays, ["cats", "dogs"], 64, tmp_path / "less.npz")
    with pytest.raises(ExportError, match=r"less\.npz: .*layer1\.0\.conv1\.weight is missing"):
        small_training(1, start=tmp_path / "less.npz")
    torch.save(trained | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "resnet50.pth")
    with pytest.raises(ExportError, match=r"resnet50\.pth: .*conv1\.weight is \(64, 3, 3, 3\)"):
        small_training(1, start=tmp_path / "resnet50.pth")


def test_a_training_that_diverges_stops_and_keeps_its_checkpoint(tmp_path):
    training = small_training(2)
    (tmp_path / "checkpoint.pt").write_bytes(b"the last good one")
    with torch.no_grad():
        training.model.fc.weight[0, 0] = float("nan")
    with pytest.raises(DataError, match="no longer finite at step 1: give a lower --rate"):
        train.run(training, training.dataset, tmp_path)
    with pytest.raises(DataError, match="answers are no longer finite"):
        train.finish(training, training.dataset, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"the last good one"


def run(script, *arguments):
    return subprocess.run([sys.executable, ROOT / script, *map(str, arguments)], capture_output=True, text=True)


def test_from_pictures_to_a_version_that_recognises_them(tmp_path, rng):
    """The commands of training/README.md, on a handful of pictures."""
    data, out, weights = class_directories(tmp_path / "data", rng, 12), tmp_path / "run", tmp_path / "w.safetensors"
    result = run("training/train.py", "--data", data, "--out", out, "--batch", 4, "--epochs", 1)
    assert result.returncode == 0 and "left]" in result.stderr, result.stderr
    header, *rows = (out / "log.csv").read_text().splitlines()
    assert header.startswith("epoch,size,learning_rate,loss") and len(rows) == 1 and rows[0].startswith("1,48,")
    assert b"<svg" in (out / "log.svg").read_bytes()
    *whole, packed = json.loads((out / "sizes.json").read_text())
    size = packed["size"]
    assert packed["kernels"] == "int8" and size == max(whole, key=lambda row: row["top1"])["size"]
    assert run("common/export_weights.py", "demo", out / "resnet50.npz", "--out", weights).returncode == 0
    known = ["--data", data, "--weights", weights]
    result = run("training/evaluate.py", "v2", "v3_preload", *known, "--out", out / "accuracy.json")
    assert result.returncode == 0, result.stderr
    found = json.loads((out / "accuracy.json").read_text())
    assert [row["version"] for row in found] == ["v2_vectorized", "v3_preload"]
    for row in found:
        assert (row["pictures"], row["size"], row["top5"]) == (4, size, 1)
        line = "{version}, packed resnet50.npz, {size}x{size}: top-1 {top1:.2%}, top-5 100.00% of 4 pictures"
        assert line.format(**row) in result.stdout
    assert "of 2 pictures" in run("training/evaluate.py", "v3", *known, "--count", 2).stdout


FAKE_INFER = """
import json, pathlib, sys
for file in pathlib.Path(sys.argv[1]).iterdir():
    best = ["class 0", "class 5", "class 1" if file.stem == "3" else "class 6", "class 2", "class 3"]
    print(json.dumps({"picture": str(file), "predictions": [{"label": label} for label in best], "weights": "fake"}))
if "killed" in sys.argv[-1]:
    print("note: slow", file=sys.stderr)
    sys.exit(9)
sys.exit("note: slow\\nerror: no compiler" if "no" in sys.argv[-1] else 0)
"""


def test_an_evaluation_counts_what_infer_says_and_hands_on_its_error(tmp_path, rng, monkeypatch, small_weights_file):
    _, pictures, names = find(class_directories(tmp_path / "data", rng, 31, ["class 0", "class 1"], side=8))
    infer = tmp_path / "v9" / "infer.py"
    infer.parent.mkdir()
    infer.write_text(FAKE_INFER)
    monkeypatch.setattr(evaluate, "ROOT", tmp_path)
    archived = [(io.BytesIO(file.read_bytes()), label) for file, label in pictures]  # 0 to 3 of class 0, 4 to 7 of 1
    for form in (pictures, archived):
        found = evaluate.evaluate("v9", form, names, small_weights_file)
        assert found == {"version": "v9", "size": 32, "weights": "fake", "pictures": 8, "top1": 0.5, "top5": 0.5}
    found = evaluate.evaluate("v9", [(file, 1) for file, _ in pictures], names, small_weights_file)
    assert (found["top1"], found["top5"]) == (0, 1 / 8)
    for name, reason in ("no", "no compiler"), ("killed", "v9: exit code 9"):
        (tmp_path / f"{name}.safetensors").symlink_to(small_weights_file)
        with pytest.raises(DataError, match=f"^{reason}$"):
            evaluate.evaluate("v9", pictures, names, tmp_path / f"{name}.safetensors")


def test_commands_name_what_is_wrong_in_one_line(tmp_path, rng, monkeypatch, capsys, small_weights_file):
    data = class_directories(tmp_path / "data", rng, 3, side=8)
    known = class_directories(tmp_path / "known", rng, 3, ["class 0", "class 1"], side=8)
    (known / "class 1" / "00.jpg").write_bytes(b"no picture")
    for module, arguments, message in (
        (train, ["--data", tmp_path / "none"], "cannot be read"),
        (train, ["--data", data], "--batch 128 must be from 2 to 4, the number of pictures"),
        (train, ["--data", data, "--batch", 1], "--batch 1 must be from 2 to 4, the number of pictures"),
        (train, ["--data", data, "--rate", 0], "0 is no finite number above 0"),
        (train, ["--data", data, "--epochs", "inf"], "inf is no finite number above 0"),
        (evaluate, ["v99", "--data", data], "there is no 'v99'"),
        (evaluate, ["--data", data, "--count", 0], "--count must be 1 or more"),
        (evaluate, ["--data", data, "--weights", tmp_path / "none"], "none holds no intact weights"),
        (evaluate, ["--data", data, "--weights", small_weights_file], "the weights have no class 'cats'"),
        (evaluate, ["v2", "--data", known, "--weights", small_weights_file], "class 1/00.jpg"),
    ):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments), "--out", str(tmp_path / "run")])
        with pytest.raises(SystemExit) as caught:
            module.main()
        said = str(caught.value.code) + capsys.readouterr().err
        assert message in said and caught.value.code not in (0, None), said
    assert not (tmp_path / "run").exists()
