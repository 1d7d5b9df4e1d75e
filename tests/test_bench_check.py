"""The benchmark's ground truth: the float64 reference and the check against it; counters, ceilings, weights, peers."""

import threading
from platform import machine
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import check, peak, peers, quantize
from bench.allocations import counted_allocations
from bench.check import TOLERANCE, WrongOutput, check_bytes, check_logits, check_output
from bench.child import Child
from bench.inputs import InputError, make_inputs, picture
from bench.reference import reference_activations, reference_logits
from bench.worker import Worker
from tests.torch_reference import torch_activations, torch_model


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (75, 33)])
def test_reference_equals_torchvision_in_float64(shape, small_state, small_weights_file, rng):
    image = rng.standard_normal((*shape, 3)).astype(np.float32)
    expected = torch_activations(torch_model(small_state), image)
    found = reference_activations(small_weights_file, image)
    assert list(found) == ["stem", "layer1", "layer2", "layer3", "layer4", "avgpool", "logits"]
    for name, activation in found.items():
        assert activation.shape == expected[name].shape and activation.dtype == np.float64
        assert np.isfinite(activation).all()
        assert np.abs(activation - expected[name]).max() <= 1e-12 * np.abs(expected[name]).max(), name


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 50), size=st.floats(1e-3, 1e3))
def test_check_accepts_what_is_within_the_tolerance_and_nothing_else(seed, classes, size):
    rng = np.random.default_rng(seed)
    right = rng.standard_normal(classes) * size
    allowed, place = TOLERANCE["float32"] * np.abs(right).max(), rng.integers(classes)
    close = right.copy()
    close[place] += 0.9 * allowed
    assert check_logits(close, right) == pytest.approx(0.9 * allowed)
    for wrong, why in ((right[place] - 1.1 * allowed, "off by"), (np.nan, "not finite"), (-np.inf, "not finite")):
        close[place] = wrong
        with pytest.raises(WrongOutput, match=why):
            check_logits(close, right)


@pytest.mark.parametrize("wrong", [None, [0.0] * 7, np.arange(7), np.zeros((1, 7)), np.zeros(6), np.zeros(7, complex)])
def test_check_rejects_other_types_and_shapes(wrong):
    with pytest.raises(WrongOutput, match="expected floats of shape"):
        check_logits(wrong, np.arange(7.0))


def swapped(logits, one, other):
    logits[[one, other]] = logits[[other, one]]
    return logits


DAMAGE = {
    "zeros": (lambda y: y * 0, "off by"),
    "constant": (lambda y: np.full_like(y, y.mean()), "off by"),
    "not a number": (lambda y: y + np.nan, "not finite"),
    "channel missing": (lambda y: y[:-1], "expected floats of shape"),
    "largest missing": (lambda y: np.where(np.arange(len(y)) == np.abs(y).argmax(), 0, y), "off by"),
    "extremes swapped": (lambda y: swapped(y, y.argmin(), y.argmax()), "off by"),
    "neighbours swapped": (lambda y: swapped(y, *np.argsort(y)[2:4]), "2 logits differ from those of plain C"),
    "last bits": (lambda y: np.nextafter(y, 0), "logits differ"),
}


@pytest.mark.parametrize("classes", [7, 100])
@pytest.mark.parametrize("damage", DAMAGE)
def test_bytes_are_held_to_plain_c_to_the_last_bit_and_to_the_reference(damage, classes, rng, monkeypatch):
    change, why = DAMAGE[damage]
    right = rng.permutation(np.linspace(-9.0, 9.5, classes))
    plain = (right + rng.uniform(-0.5, 0.5, classes)).astype(np.float32)  # as far off as bytes may be
    monkeypatch.setattr(check, "plain_logits", lambda name, inputs: plain)
    inputs = SimpleNamespace(logits=right)
    assert 0 < check_output("v8_int8", plain.copy(), inputs) <= 0.5
    if "differ" not in why:  # an engine's, which has no plain C
        with pytest.raises(WrongOutput, match=why):
            check_output("openvino-int8", change(plain.copy()), inputs)
    if classes == 7 and why == "off by":  # ours, of so few classes, is held to plain C
        why = "differ|are equal"
    with pytest.raises(WrongOutput, match=why):
        check_output("v8_int8", change(plain.copy()), inputs)


def test_bytes_that_are_near_but_have_no_likeness_are_wrong(rng):
    with pytest.raises(WrongOutput, match="are equal"):
        check_bytes(np.ones(7), rng.standard_normal(7))
    with pytest.raises(WrongOutput, match=r"correlation .* is 0\.00 where"):
        check_bytes(np.tile([1.0, -1, 1, -1], 25), np.tile([1.0, 1, -1, -1], 25))


def test_few_random_logits_in_bytes_may_be_far_off(rng, monkeypatch):
    """What random weights of 7 classes give for one seed in five: right, and unlike the reference all the same."""
    right = rng.uniform(-1, 1, 7)
    plain = (right + 3 * rng.choice([-1, 1], 7)).astype(np.float32)
    monkeypatch.setattr(check, "plain_logits", lambda name, inputs: plain)
    assert check_output("v8_int8", plain.copy(), SimpleNamespace(logits=right)) == pytest.approx(3)
    with pytest.raises(WrongOutput, match="off by"):
        check_output("openvino-int8", plain.copy(), SimpleNamespace(logits=right))


def test_plain_c_is_asked_for_anew_for_other_weights_or_sizes_and_is_plain(monkeypatch, small_weights_file):
    asked = []

    class Noted:
        def __init__(self, name, inputs, **options):
            asked.append((inputs.weights, inputs.size, options["isa"]))

        __enter__, __exit__ = lambda self: self, lambda *_: None

        def ask(self, *_):
            return [], len(asked)

    monkeypatch.setattr(check, "Worker", Noted)
    monkeypatch.setattr(check, "known_plain", {})
    pairs = [("a", 32), ("b", 32), ("a", 64), ("a", 32)]
    numbers = [check.plain_logits("v8_int8", SimpleNamespace(weights=path, size=size)) for path, size in pairs]
    assert numbers == [1, 2, 3, 1] and asked == [(*pair, "generic128") for pair in pairs[:3]]
    child = Child("v8_int8", small_weights_file, picture(32), 1, isa=check.PLAIN)
    assert child.model.network.isa.width == 4


def test_version_8_and_the_engines_in_int8_pass(weights_file, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="`make bench-peers` installs it")
    monkeypatch.setattr(quantize, "KEPT", tmp_path)
    inputs = make_inputs(96, weights_file)
    for name in ("onnxruntime-int8", "openvino-int8"):
        forward = peers.PEERS[name](weights_file, 96, threads=1)
        assert check_output(name, forward(inputs.image), inputs) > 0
    assert len(list(tmp_path.iterdir())) == 1  # both ran one graph
    with Worker("v8_int8", inputs, threads=2) as worker:
        assert check_output("v8_int8", worker.ask("pictures", 2, 0.0)[1], inputs) > 0


def test_allocations_are_counted_and_given_back():
    kept = []
    with counted_allocations() as count:
        a = np.zeros((100, 10), np.float32)
        a += 1
        kept.append(a[5:] * 2)
        a.resize((200, 10), refcheck=False)
    assert count.arrays == 3
    assert 0 <= count.bytes - (4000 + 3800 + 8000) < 100  # the rest: the numbers 1 and 2 as arrays
    later = np.ones(1000)
    assert count.arrays == 3 and later.sum() == 1000 and kept[0].sum() == 1900
    with counted_allocations() as nothing:
        np.add(later, later, out=later)
    assert nothing.arrays == nothing.bytes == 0


def test_ceilings_count_what_was_done(monkeypatch):
    monkeypatch.setattr(peak, "BUFFER", 1 << 16)
    assert peak.reading()(1, 2) == 2 * (1 << 16)  # half of the buffer, in bytes
    lanes = peak.multiply_adds()(0, 1) / (2 * 12 * peak.ROUNDS)  # 12 chains of multiply-adds
    assert lanes in (4, 8, 16, 32)
    assert peak.multiply_adds(["-mno-avx"] * (machine() == "x86_64"))(0, 1) == 4 * 2 * 12 * peak.ROUNDS
    ticks, threads = iter(np.cumsum([0, 5, 2, 9]).tolist()), set()  # two trials, of 5 and 9 seconds

    def work(part, parts):
        threads.add((part, parts, threading.current_thread() is threading.main_thread()))
        return 3.0

    assert peak.rates(work, 2, 2, clock=lambda: next(ticks)) == [6.0 / 5.0, 6.0 / 9.0]
    assert threads == {(0, 2, True), (1, 2, False)}


def test_rates_of_python_and_its_libraries_count_what_was_done(monkeypatch, tmp_path):
    monkeypatch.setattr(peak, "LARGE", {"large 0": 4096, "large 1": 8192})
    monkeypatch.setattr(peak, "SQUARE", 32)
    work = peak.software(str(tmp_path))
    done = {name: one(0, 1) for name, one in work.items()}
    turns = float(peak.OBJECTS)
    assert done == {"blas": 2 * 32**3, "calls": 1000, "tensors": 64, "copied": 12288, "turns": turns}


def test_synthetic_weights_are_made_once_and_the_users_own_come_first(monkeypatch, tmp_path, small_weights_file):
    monkeypatch.setattr("bench.inputs.WEIGHTS", tmp_path / "none")
    monkeypatch.setattr("bench.inputs.SYNTHETIC", tmp_path / "synthetic.safetensors")
    made = make_inputs(32).weights
    assert made == tmp_path / "synthetic.safetensors" and not (tmp_path / "none").exists()
    written = made.stat().st_mtime_ns
    assert make_inputs(32).weights == made and made.stat().st_mtime_ns == written
    monkeypatch.setattr("bench.inputs.WEIGHTS", small_weights_file)
    assert make_inputs(32).weights == small_weights_file and make_inputs(32, made).weights == made


def test_damaged_weights_are_an_error_in_one_line(small_weights_file, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(small_weights_file.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"damaged.*name others with --weights") as error:
        make_inputs(32, damaged)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["torch-eager", "torch-frozen", "mnn", "ncnn"])
def test_peers_compute_the_same_network(name, small_weights_file):
    if not name.startswith("torch"):
        pytest.importorskip({"mnn": "MNN"}.get(name, name), reason="`make bench-peers` installs it")
    image = picture(64)
    forward = peers.PEERS[name](small_weights_file, 64, threads=1)
    right = [reference_logits(small_weights_file, each) for each in (image, image[::-1])]
    first, second = forward(image), forward(image[::-1])
    check_logits(first, right[0], TOLERANCE.get(name, TOLERANCE["float32"]))  # it has not become the second
    check_logits(second, right[1], TOLERANCE.get(name, TOLERANCE["float32"]))
