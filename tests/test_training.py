"""Training a small model: the pictures that are found, the batches made of them, resuming, and the packed result."""

import io
import json
import math
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

import batches
import evaluate
import train
from common.versions import load_version
from common.packed import pack
from common.weights_on_disk import IMAGENET_V1
from gemm_conv import GemmConv2d
from pictures import DataError, Pictures, find
from tests.conftest import SEED

ROOT = Path(__file__).resolve().parents[1]
CLASSES = {"n01": "goldfish, Carassius auratus", "n02": "tabby, tabby cat"}


def jpeg(rng, side=64, **options):
    """A picture of big random spots, as the bytes of a file."""
    stream = io.BytesIO()
    spots = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    spots.resize((side, side)).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def tiny_imagenet(root, rng, count=3):
    """Write the form in which tiny-imagenet-200 is distributed, with two classes."""
    (root / "wnids.txt").write_text("\n".join(CLASSES) + "\n")
    (root / "words.txt").write_text("".join(f"{wnid}\t{words}\n" for wnid, words in CLASSES.items()) + "n03\tdog\n")
    for wnid in CLASSES:
        (root / "train" / wnid / "images").mkdir(parents=True)
        for number in range(count):
            (root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG").write_bytes(jpeg(rng))
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for number, wnid in enumerate([*CLASSES, *reversed(CLASSES)]):
        (root / "val" / "images" / f"val_{number}.JPEG").write_bytes(jpeg(rng))
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def archive(path, pictures):
    """Write Pictures as one of the archives into which tiny-imagenet-200 can be packed."""
    files = [file.read_bytes() for file in pictures.files]
    np.savez(path, jpeg=np.frombuffer(b"".join(files), np.uint8), offsets=np.cumsum([0, *map(len, files)]),
             labels=np.array(pictures.labels, np.int16), names=np.array(list(CLASSES.values())))


def class_directories(root, rng, count, side=64):
    for name in ("cats", "dogs"):
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number:02}.jpg").write_bytes(jpeg(rng, side))
    return root


def content(file):
    return file.read_bytes() if isinstance(file, Path) else file.getvalue()


def test_both_forms_of_tiny_imagenet_are_the_same(tmp_path, rng):
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    pictures, held_out, names = find(tiny_imagenet(unpacked, rng))
    assert names == ["goldfish", "tabby"] and len(pictures.files) == 6 and list(held_out.labels) == [0, 1, 1, 0]
    packed = tmp_path / "packed"
    packed.mkdir()
    archive(packed / "val.npz", held_out)
    archive(packed / "train-0.npz", Pictures(pictures.files[:4], pictures.labels[:4]))
    archive(packed / "train-1.npz", Pictures(pictures.files[4:], pictures.labels[4:]))
    for found, expected in zip(find(packed)[:2], (pictures, held_out)):
        assert list(found.labels) == list(expected.labels)
        assert [content(file) for file in found.files] == [content(file) for file in expected.files]
    assert find(packed)[2] == names


def test_of_class_directories_every_tenth_picture_is_held_out(tmp_path, rng):
    class_directories(tmp_path, rng, 12, side=8)
    (tmp_path / "cats" / "Thumbs.db").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no class")
    pictures, held_out, names = find(tmp_path)
    assert names == ["cats", "dogs"]
    assert [file.name for file in held_out.files] == ["00.jpg", "10.jpg"] * 2 and list(held_out.labels) == [0, 0, 1, 1]
    assert len(pictures.files) == 20 and not set(pictures.files) & set(held_out.files)


def nothing(path, rng):
    """An empty directory."""


def one_class(path, rng):
    (path / "cats").mkdir()
    (path / "cats" / "1.jpg").write_bytes(jpeg(rng))
    (path / "cats" / "2.jpg").write_bytes(jpeg(rng))


def one_picture(path, rng):
    class_directories(path, rng, 1)


def incomplete(path, rng):
    (path / "wnids.txt").write_text("n01\n")


def damaged_archive(path, rng):
    (path / "val.npz").write_bytes(b"PK\x03\x04 no archive")


def no_training_archive(path, rng):
    (path / "files").mkdir()
    archive(path / "val.npz", find(tiny_imagenet(path / "files", rng))[1])


@pytest.mark.parametrize("spoil, message", [
    (nothing, "needs a directory for each of two classes"), (one_class, "needs a directory for each of two classes"),
    (one_picture, "a class needs two pictures"), (incomplete, "cannot be read"), (damaged_archive, "cannot be read"),
    (no_training_archive, "no train-")])  # fmt: skip
def test_what_cannot_be_trained_on_is_one_clear_error(spoil, message, tmp_path, rng):
    spoil(tmp_path, rng)
    with pytest.raises(DataError, match=message) as caught:
        find(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="missing: cannot be read"):
        find(tmp_path / "missing")


def test_an_unreadable_picture_is_named(tmp_path, rng):
    class_directories(tmp_path, rng, 3, side=8)
    (tmp_path / "dogs" / "01.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"dogs.01\.jpg: not a readable picture"):
        batches.decode(find(tmp_path)[0])


def test_pictures_are_decoded_as_the_versions_do(tmp_path, rng):
    """What the network sees in training is what infer.py shows it: upright, the middle square, normalised."""
    rotated = Image.Exif()
    rotated[0x0112] = 6
    (tmp_path / "upright.jpg").write_bytes(jpeg(rng))
    (tmp_path / "rotated.jpg").write_bytes(jpeg(rng, exif=rotated))
    Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(tmp_path / "gray.png")
    (tmp_path / "large.jpg").write_bytes(jpeg(rng, side=100))
    files = sorted(tmp_path.iterdir())
    dataset = batches.decode(Pictures(files, [0] * len(files)))
    inputs = batches.prepare(dataset.pixels, 64, torch.device("cpu")).permute(0, 2, 3, 1).numpy()
    load_image = load_version("v2_vectorized").image.load_image
    for seen, file in zip(inputs, files):
        expected = load_image(file, IMAGENET_V1 | {"resize": 64, "crop": 64})
        np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-6)


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(8, 20))
def test_augmenting_moves_and_mirrors_whole_pictures(seed, count, side):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    moved = batches.augment(pixels, generator)
    assert moved.dtype == torch.uint8 and moved.shape == pixels.shape
    shift = batches.SHIFT
    for before, after in zip(pixels.numpy(), moved.numpy()):
        padded = np.pad(before, ((0, 0), (shift, shift), (shift, shift)), mode="edge")
        windows = [padded[:, top : top + side, left : left + side]
                   for top in range(2 * shift + 1) for left in range(2 * shift + 1)]  # fmt: skip
        assert any(np.array_equal(after, window) or np.array_equal(after, window[..., ::-1]) for window in windows)


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(8, 64))
def test_varying_shows_a_part_of_each_picture(seed, count, side):
    """Of a gray picture that is brighter the further right and the further down."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(40, 80, side)
    pixels = (ramp + ramp[:, None]).to(torch.uint8).repeat(count, 3, 1, 1)
    varied = batches.vary(pixels, generator)
    assert varied.dtype == torch.uint8 and varied.shape == pixels.shape
    parts = varied.double()
    assert parts.min() > 0.7 * 80 - 1 and parts.max() < 1.3 * 160 + 1
    rightwards, downwards = parts.mean(dim=2), parts.mean(dim=3)
    assert (downwards.diff(dim=2) > -1).all()
    steps = rightwards.diff(dim=2)
    assert ((steps > -1).all(dim=2) | (steps < 1).all(dim=2)).all()  # mirrored or not, in one piece
    # A side is at least 0.35 * 3/4 square-rooted, so half of the ramp's 40; in light of 0.7; three numbers are rounded.
    assert ((rightwards[:, :, 0] - rightwards[:, :, -1]).abs() > 0.7 * 0.5 * 40 * (side - 2) / side - 2).all()


def test_varying_changes_saturation_and_light():
    """Of pictures of one colour, whose green is also their gray: saturation leaves it alone."""
    pixels = torch.tensor([150, 100, 50], dtype=torch.uint8)[:, None, None].repeat(1000, 1, 8, 8)
    varied = batches.vary(pixels, batches.generator(SEED, 0)).double()
    assert (varied == varied[:, :, :1, :1]).all()
    red, green, blue = varied[:, :, 0, 0].unbind(1)
    for channel, low, high in ((red, 70, 1.3 * 175), (green, 70, 130), (blue, 0.7 * 25, 130)):
        span = 0.15 * (high - low)  # so near to the ends at least one in 1000 comes
        assert low - 1 <= channel.min() < low + span and high - span < channel.max() <= high + 1
    assert torch.corrcoef(torch.stack([green, red]))[0, 1].abs() < 0.3  # each channel has a gain of its own


def test_varying_differs_between_pictures_and_steps_and_mirrors_half():
    pixels = torch.arange(64, dtype=torch.uint8).repeat(1000, 3, 8, 1)
    varied = batches.vary(pixels, batches.generator(SEED, 1)).double().mean(dim=(1, 2))
    assert len({tuple(row) for row in varied.tolist()}) > 900
    assert 400 < (varied[:, 0] > varied[:, -1]).sum() < 600  # six standard deviations
    again, other = (batches.vary(pixels, batches.generator(SEED, step)).double().mean(dim=(1, 2)) for step in (1, 2))
    assert torch.equal(varied, again) and not torch.equal(varied, other)


@given(st.integers(1, 9), st.integers(0, 50), st.integers(0, 5), st.integers(0, 2**31))
def test_an_epoch_shows_every_picture_at_most_once(size, more, epoch, seed):
    count = size + more
    indices = batches.shuffled(count, size, epoch, seed)
    assert len(indices) == count // size and all(len(batch) == size for batch in indices)
    shown = torch.cat(indices).tolist()
    assert len(set(shown)) == len(shown) and set(shown) <= set(range(count))
    again = batches.shuffled(count, size, epoch, seed)
    assert all(map(torch.equal, indices, again))


@given(st.sampled_from([(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)]), st.integers(1, 3), st.integers(1, 7),
       st.integers(1, 7), st.integers(0, 2**31))  # fmt: skip
def test_gemm_convolution_equals_convolution(kernel, count, height, width, seed):
    torch.manual_seed(seed)
    side, stride = kernel
    ours = GemmConv2d(5, 4, side, stride=stride, padding=side // 2, bias=False, dtype=torch.float64)
    ours = ours.to(memory_format=torch.channels_last)
    x = torch.randn(count, 5, height, width, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = ours.weight.detach().clone().requires_grad_()
    y = ours(mine)
    expected = functional.conv2d(theirs, weight, stride=stride, padding=side // 2)
    torch.testing.assert_close(y, expected, check_stride=False)
    towards = torch.randn_like(expected)
    y.backward(towards)
    expected.backward(towards)
    torch.testing.assert_close(mine.grad, theirs.grad, check_stride=False)
    torch.testing.assert_close(ours.weight.grad, weight.grad, check_stride=False)


def small_training(epochs, pictures=12, batch=4, seed=SEED, labels=("cats", "dogs"), start=None):
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(256, (pictures, 3, 64, 64), dtype=torch.uint8, generator=generator)
    dataset = batches.Dataset(pixels, torch.arange(pictures) % 2)
    options = Namespace(epochs=epochs, batch=batch, rate=0.02, decay=1e-4, seed=seed, start=start)
    return train.Training(options, dataset, list(labels), torch.device("cpu"))


@pytest.mark.parametrize("epochs", [0.7, 3, 14])
def test_the_learning_rate_rises_stays_and_falls_and_pictures_grow(epochs):
    training = small_training(epochs, pictures=400)
    rates, sizes = [], []
    for step in range(training.steps):
        training.step = step
        rates.append(training.learning_rate())
        sizes.append(training.size())
    assert sizes == sorted(sizes) and sizes[-1] == 64 and (epochs < 3 or set(sizes) == {32, 48, 64})
    assert rates[0] == 0 and all(0 < rate <= 0.02 for rate in rates[1:])
    assert all(size == 32 for size in sizes[: training.cool_down])
    if epochs == 14:
        warm = training.per_epoch
        assert set(rates[warm : training.cool_down + 1]) == {0.02} and rates[:warm] == sorted(rates[:warm])
        fall = rates[training.cool_down :]
        assert fall == sorted(fall, reverse=True) and math.isclose(rates[-1], fall[0] - fall[1], rel_tol=1e-6)


def weights_of(training):
    return torch.cat([tensor.flatten().double() for tensor in training.model.state_dict().values()])


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole, first = small_training(2), small_training(2)
    for _ in range(4):
        whole.take_step()
    for _ in range(2):
        first.take_step()
    first.save(tmp_path / "checkpoint.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    second = small_training(2)
    second.resume(tmp_path)
    assert second.step == 2
    for _ in range(2):
        second.take_step()
    change = (weights_of(whole) - weights_of(first)).norm()
    assert (weights_of(whole) - weights_of(second)).norm() < 1e-3 * change


def test_a_training_can_be_made_longer_until_it_cools_down(tmp_path):
    begun = small_training(4)  # 12 steps; the learning rate falls from the 7th on
    begun.step = begun.cool_down
    begun.save(tmp_path / "before_cool_down.pt")
    begun.step = begun.steps
    begun.save(tmp_path / "checkpoint.pt")
    longer, same, shorter, other = (
        small_training(8), small_training(4), small_training(2), small_training(4, labels=("owls", "dogs")))
    longer.resume(tmp_path)
    assert longer.step == begun.cool_down
    same.resume(tmp_path)
    assert same.step == begun.steps
    with pytest.raises(DataError, match="too far on for other --epochs"):
        shorter.resume(tmp_path)
    with pytest.raises(DataError, match="other pictures or options"):
        other.resume(tmp_path)
    fresh = small_training(2)
    fresh.resume(tmp_path / "empty")
    assert fresh.step == 0
    for content in (b"", (tmp_path / "checkpoint.pt").read_bytes()[:100_000]):
        (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(DataError, match=r"checkpoint\.pt is damaged"):
            same.resume(tmp_path)


def test_fine_tuning_starts_from_trained_weights_and_only_slows_down(tmp_path):
    trained, file = small_training(1), tmp_path / "resnet50.pth"
    trained.take_step()
    torch.save(trained.model.state_dict(), file)
    tuned = small_training(4, start=file)
    assert torch.equal(weights_of(tuned), weights_of(trained))
    rates, sizes = [], []
    for step in range(tuned.steps):
        tuned.step = step
        rates.append(tuned.learning_rate())
        sizes.append(tuned.size())
    assert set(sizes) == {64} and rates == sorted(rates, reverse=True) and rates[0] == 0.02 and rates[-1] > 0
    tuned.step = 1
    pictures, _ = tuned.batch()
    tuned.tuning = False
    assert not torch.equal(pictures, tuned.batch()[0])
    tuned.save(tmp_path / "checkpoint.pt")
    same = small_training(4, start=file)
    same.resume(tmp_path)
    assert same.step == 1
    with pytest.raises(DataError, match="other pictures or options"):
        small_training(4).resume(tmp_path)
    others = small_training(4, start=file, labels=("cats", "dogs", "owls")).model.state_dict()
    kernel = trained.model.state_dict()["layer4.2.conv3.weight"]
    assert others["fc.weight"].shape[0] == 3 and torch.equal(others["layer4.2.conv3.weight"], kernel)
    arrays = {name: tensor.numpy() for name, tensor in trained.model.state_dict().items()}
    pack({name: array for name, array in arrays.items() if not name.endswith(train.COUNTER)},
         ["cats", "dogs"], 64, tmp_path / "resnet50.npz")  # fmt: skip
    packed = small_training(1, start=tmp_path / "resnet50.npz").model.state_dict()["layer4.2.conv3.weight"]
    assert 0 < (packed - kernel).abs().max() < 0.5001 * kernel.abs().max() / 127


def test_fine_tuning_from_what_is_no_trained_network_is_one_clear_error(tmp_path):
    file = tmp_path / "resnet50.pth"
    with pytest.raises(DataError, match=r"there is no .*resnet50\.pth$"):
        small_training(1, start=file)
    file.write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"resnet50\.pth is damaged .*: name another file"):
        small_training(1, start=file)
    for content in (torch.zeros(3), {"fc.weight": torch.zeros(2, 2048)}):
        torch.save(content, file)
        with pytest.raises(DataError, match="holds no ResNet-50"):
            small_training(1, start=file)
    state = small_training(1).model.state_dict()
    torch.save(state | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, file)
    with pytest.raises(DataError, match=r"does not fit: .*conv1\.weight"):
        small_training(1, start=file)


def test_a_training_that_diverges_stops_and_keeps_its_checkpoint(tmp_path):
    training = small_training(2)
    training.save(tmp_path / "checkpoint.pt")
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with torch.no_grad():
        training.model.fc.weight[0, 0] = float("nan")
    with pytest.raises(DataError, match="no number any more at step 1: lower --rate"):
        train.run(training, training.dataset, tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def run(*arguments, **options):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def test_from_pictures_to_a_version_that_recognises_them(tmp_path, rng):
    """The commands of weights/demo/README.md, on a handful of pictures."""
    data = class_directories(tmp_path / "data", rng, 12)
    training = [ROOT / "weights" / "demo" / "train.py", "--data", data, "--out", tmp_path / "run", "--batch", 4]
    result = run(*training, "--epochs", 1)
    assert result.returncode == 0, result.stderr
    assert "packed: " in result.stdout and "left] epoch" in result.stderr
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert len(log) == 2 and log[0].startswith("epoch,size,learning_rate,loss") and log[1].startswith("1,48,")
    assert b"<svg" in (tmp_path / "run" / "log.svg").read_bytes()
    weights = tmp_path / "weights"
    result = run(ROOT / "common" / "export_weights.py", "demo", tmp_path / "run" / "resnet50.npz", "--out", weights)
    assert result.returncode == 0, result.stderr
    manifest = json.loads((weights / "manifest.json").read_text())
    assert manifest["labels"] == ["cats", "dogs"] and manifest["source"] == "packed resnet50.npz"
    size = manifest["preprocessing"]["crop"]
    *whole, packed = json.loads((tmp_path / "run" / "sizes.json").read_text())
    assert size == manifest["preprocessing"]["resize"] == max(whole, key=lambda row: row["top1"])["size"]
    assert packed["kernels"] == "int8" and packed["size"] == size
    line = f"int8 kernels, {size}x{size}: top-1 {packed['top1']:.2%}, top-5 100.00%"
    assert line in run(*training, "--epochs", 1).stdout  # a finished training only measures and packs again
    evaluating = [ROOT / "weights" / "demo" / "evaluate.py", "v2", "--data", data, "--weights", weights]
    result = run(*evaluating, "--out", tmp_path / "accuracy.json")
    assert result.returncode == 0, result.stderr
    (accuracy,) = json.loads((tmp_path / "accuracy.json").read_text())
    assert accuracy["pictures"] == 4 and accuracy["top5"] == 1.0 and accuracy["weights"] == "packed resnet50.npz"
    line = f"packed resnet50.npz, {size}x{size}: top-1 {accuracy['top1']:.2%}, top-5 100.00% of 4 pictures"
    assert f"v2_vectorized, {line}" in result.stdout


def test_results_of_versions_are_kept_side_by_side(tmp_path):
    path = tmp_path / "accuracy.json"
    for version, top1 in (("v3", 0.1), ("v2", 0.2), ("v3", 0.3)):
        evaluate.store({"version": version, "top1": top1}, path)
    assert json.loads(path.read_text()) == [{"version": "v2", "top1": 0.2}, {"version": "v3", "top1": 0.3}]
    path.write_text("{}x")
    with pytest.raises(DataError, match="holds no results"):
        evaluate.store({"version": "v2"}, path)
    assert path.read_text() == "{}x"


@given(st.integers(1, 30), st.integers(1, 40))
def test_a_sample_keeps_pictures_and_labels_together(total, count):
    pictures = Pictures([f"{number}.jpg" for number in range(total)], list(range(total)))
    chosen = evaluate.sample(pictures, count)
    assert chosen == evaluate.sample(pictures, count) and len(set(chosen.files)) == min(total, count)
    assert [f"{label}.jpg" for label in chosen.labels] == chosen.files


def test_commands_name_what_is_wrong_in_one_line(tmp_path, rng, small_weights_dir):
    demo = ROOT / "weights" / "demo"
    data = class_directories(tmp_path / "data", rng, 3, side=8)
    for command, message in (
        (["train.py", "--data", tmp_path / "none", "--out", tmp_path / "run"], "cannot be read"),
        (["train.py", "--data", data, "--out", tmp_path / "run"], "do not fill one batch; lower --batch"),
        (["train.py", "--data", data, "--batch", 0], "--batch must be above 0"),
        (["evaluate.py", "v9", "--data", data], "there is no version 'v9'"),
        (["evaluate.py", "--data", data, "--count", 0], "--count must be 1 or more"),
        (["evaluate.py", "--data", data, "--weights", tmp_path], "no weights in"),
        (["evaluate.py", "--data", data, "--weights", small_weights_dir], "the weights know no 'cats'"),
    ):
        result = run(demo / command[0], *command[1:])
        assert result.returncode in (1, 2) and message in result.stderr and "Traceback" not in result.stderr, result
    assert not (tmp_path / "run").exists()
    (tmp_path / "classes").mkdir()
    for name in ("cats", "dogs"):
        os.rename(data / name, tmp_path / "classes" / {"cats": "class 0", "dogs": "class 1"}[name])
    (tmp_path / "classes" / "class 1" / "00.jpg").write_bytes(b"no picture")
    result = run(demo / "evaluate.py", "--data", tmp_path / "classes", "--weights", small_weights_dir)
    assert result.returncode == 1 and "class 1/00.jpg: not a readable picture" in result.stderr
    missing = small_weights_dir / "fc.bias.npy"
    hidden = missing.rename(tmp_path / "hidden.npy")
    try:
        result = run(demo / "evaluate.py", "--data", tmp_path / "classes", "--weights", small_weights_dir)
    finally:
        hidden.rename(missing)
    assert result.returncode == 1 and "fc.bias" in result.stderr and "Traceback" not in result.stderr
