"""Lesson 6: the program as a reader runs it, its weights file, its article."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.primer_mnist_support import LESSON, bundled_digits, draw_digit, lesson
from tests.primer_support import is_excerpt

network, training, report, mnist = lesson.network, lesson.training, lesson.report, lesson.mnist


def run(*arguments, cwd):
    """The script as a reader runs it."""
    return subprocess.run(
        [sys.executable, str(LESSON / "mnist.py"), *map(str, arguments)],
        cwd=cwd, text=True, capture_output=True, timeout=300,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run on scikit-learn's digits, started as a reader starts it: (its directory, what it printed)."""
    directory = tmp_path_factory.mktemp("trained")
    finished = run("--epochs", 4, cwd=directory)
    assert finished.returncode == 0, finished.stderr
    return directory / "mnist_out", finished.stdout


def test_a_short_training_reads_nine_held_out_digits_of_ten(trained):
    out, printed = trained
    (result,) = json.loads((out / "results.json").read_text())
    assert result["test_accuracy"] >= 0.9 and result["epochs"] == 4 and result["test_digits"] == 360
    assert f"{100 * result['test_accuracy']:.2f} % of the held-out digits right" in printed
    assert len(re.findall(r"^epoch", printed, re.MULTILINE)) == 4
    # The printed confusion matrix: ten rows whose numbers add up to the held-out digits.
    rows = [re.split(r"\s*[│|]\s*", line)[2:-2] for line in printed.splitlines() if re.match(r"[│|]\s+\d", line)]
    counts = np.array([[int(cell) if cell.isdigit() else 0 for cell in row] for row in rows])
    assert counts.shape == (10, 10) and counts.sum() == 360
    assert counts.sum() - np.trace(counts) == result["mistakes"] == round(360 * (1 - result["test_accuracy"]))


def test_the_files_of_a_training_belong_together(trained):
    out, _ = trained
    assert sorted(path.name for path in out.iterdir()) == ["curves.png", "mistakes.png", "results.json", "weights.npz"]
    for name in ("curves.png", "mistakes.png"):
        with Image.open(out / name) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50  # more than an empty page
    (result,) = json.loads((out / "results.json").read_text())
    net, digits = network.Network(), bundled_digits()
    description = net.load(out / "weights.npz")
    loss, accuracy, probabilities = training.evaluate(net, digits.test_images, digits.test_labels)
    assert abs(accuracy - result["test_accuracy"]) < 1e-4 and abs(loss - result["test_loss"]) < 1e-4
    assert "epoch 4 of 4" in description and f"{100 * accuracy:.2f} %" in description
    assert (probabilities.argmax(axis=1) != digits.test_labels).sum() == result["mistakes"]


@pytest.mark.parametrize(("count", "wrong", "rows"), [(30, 0, 1), (30, 3, 1), (30, 11, 2), (120, 80, 5), (4, 1, 1)])
def test_the_page_of_mistakes_holds_the_surest_first(count, wrong, rows, monkeypatch, rng):
    labels = rng.integers(0, 10, count)
    predictions = labels.copy()
    predictions[rng.permutation(count)[:wrong]] += 1
    predictions %= 10
    confidence = 0.5 + 0.4 * rng.permutation(count) / count
    probabilities = np.full((count, 10), 0.01)
    probabilities[np.arange(count), predictions] = confidence
    figures = []
    monkeypatch.setattr(report, "save_figure", lambda figure, path: figures.append(figure))
    report.save_mistakes(np.zeros((count, 28, 28), np.uint8), labels, probabilities, "page.png")
    titles = [axes.get_title() for axes in figures[0].axes]
    mistakes, right = ([i for i in range(count) if (predictions[i] != labels[i]) == kind] for kind in (True, False))
    order = sorted(mistakes, key=lambda i: -confidence[i]) + sorted(right, key=lambda i: confidence[i])
    expected = [f"{labels[i]} → {predictions[i]}\n{100 * confidence[i]:.0f} %" for i in order]
    assert len(titles) == 10 * rows and [title for title in titles if title] == expected[: 10 * rows]
    assert figures[0].get_suptitle().startswith(f"{wrong} mistakes in {count} ")


def test_held_out_digits_are_read_from_pictures(trained, tmp_path, capsys):
    """Drawn large, dark on a light page, off centre, saved as JPEG: read as well as from their own 28x28 pixels."""
    out, _ = trained
    digits = bundled_digits()
    rng = np.random.default_rng(0)
    names = []
    for index in range(40):
        ink = Image.fromarray(digits.test_images[index]).resize((168, 168), Image.Resampling.BICUBIC)
        page = Image.new("RGB", (500, 400), (235, 232, 225))
        page.paste((40, 40, 90), tuple(rng.integers(0, 200, 2).tolist()), ink)
        names.append(str(tmp_path / f"{index}.jpg"))
        page.save(names[-1], quality=60)
    assert mnist.main(["predict", *names, "--weights", str(out / "weights.npz")]) == 0
    printed = capsys.readouterr().out
    answers = [int(answer) for answer in re.findall(r"\.jpg: (\d) \(", printed)]
    assert len(answers) == 40
    net = network.Network()
    net.load(out / "weights.npz")
    direct = training.predict(net, digits.test_images[:40]).argmax(axis=1)
    assert (direct == answers).mean() >= 0.95
    assert (digits.test_labels[:40] == answers).mean() >= 0.85


def test_stages_show_the_way_through_the_network(trained, tmp_path, capsys):
    draw_digit(2).save(tmp_path / "two.png")
    weights = ["--weights", str(trained[0] / "weights.npz")]
    stages = str(tmp_path / "stages.png")
    assert mnist.main(["predict", str(tmp_path / "two.png"), "--stages", stages, *weights]) == 0
    with Image.open(stages) as picture:
        assert picture.width > 1000 and len(np.unique(np.asarray(picture.convert("L")))) > 50
    with pytest.raises(SystemExit) as stopped:
        mnist.main(["predict", "a.png", "b.png", "--stages", stages])
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def small_data(tmp_path):
    """Two hundred digits as an .npz, so that an epoch is short."""
    digits = bundled_digits()
    path = tmp_path / "small.npz"
    np.savez(path, images=digits.train_images[:200], labels=digits.train_labels[:200])
    return path


def test_control_c_keeps_the_last_finished_epoch(small_data, tmp_path, monkeypatch, capsys):
    finished = []

    def evaluate(net, images, labels):
        if len(finished) == 2:
            raise KeyboardInterrupt
        finished.append({name: array.copy() for name, array in net.parameters.items()})
        return training.evaluate(net, images, labels)

    monkeypatch.setattr(mnist, "evaluate", evaluate)
    with pytest.raises(SystemExit) as stopped:
        mnist.main(["train", "--data", str(small_data), "--out", str(tmp_path / "out")])
    weights = tmp_path / "out" / "weights.npz"
    assert stopped.value.code == 130
    assert f"interrupted; the weights of epoch 2 are in {weights}" in capsys.readouterr().err
    net = network.Network(9)
    assert "epoch 2 of" in net.load(weights)
    assert all(np.array_equal(array, finished[1][name]) for name, array in net.parameters.items())


def test_a_real_interrupt_ends_without_a_traceback(small_data, tmp_path):
    command = [sys.executable, "-u", str(LESSON / "mnist.py"), "train", "--data", str(small_data), "--epochs", "1000"]
    process = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not process.stdout.readline().startswith("epoch  2"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the weights of epoch" in errors and "Traceback" not in printed + errors
    assert "small.npz" in network.Network().load(tmp_path / "mnist_out" / "weights.npz")


def test_bad_arguments_and_files_are_one_line(tmp_path, capsys, small_data):
    (tmp_path / "foreign.json").write_text('{"not": "a list of runs"}')
    (tmp_path / "file").write_text("in the way")
    for arguments in (
        ["train", "--data", str(tmp_path / "absent")],
        ["train", "--data", str(small_data), "--out", str(tmp_path / "file")],
        ["train", "--data", str(small_data), "--out", str(tmp_path), "--record", str(tmp_path / "foreign.json")],
        ["predict", "digit.png", "--weights", str(tmp_path / "absent.npz")],
        ["predict", "digit.png", "--weights", str(tmp_path / "foreign.json")],
    ):
        assert mnist.main(arguments) == 1
        printed = capsys.readouterr()
        assert printed.err.startswith("mnist.py: ") and printed.err.count("\n") == 1 and str(tmp_path) in printed.err
    assert (tmp_path / "foreign.json").read_text() == '{"not": "a list of runs"}'
    for arguments in (["--epochs", "0"], ["--epochs", "many"], ["--seed", "-1"], ["dance"], ["predict"]):
        with pytest.raises(SystemExit) as stopped:
            mnist.main(arguments)
        assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_no_command_means_train():
    for arguments in ([], ["--seed", "7"]):
        options = mnist.parse_arguments(arguments)
        assert options.run is mnist.train and options.data is None and options.out == Path("mnist_out")


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 3), st.integers(0, 99)), max_size=8))
@settings(max_examples=20)
def test_recorded_runs_replace_their_predecessors(tmp_path_factory, runs):
    path = tmp_path_factory.mktemp("record") / "new" / "results.json"
    for name, seed, mistakes in runs:
        report.record_run({"data": name, "seed": seed, "mistakes": mistakes}, path)
    expected = {(name, seed): mistakes for name, seed, mistakes in runs}
    assert {(run["data"], run["seed"]): run["mistakes"] for run in report.read_runs(path)} == expected
    assert len(report.read_runs(path)) == len(expected)


def test_a_recorded_run_rewrites_the_table_of_the_article_beside_it(tmp_path):
    runs = report.read_runs(LESSON / "results.json")
    article = tmp_path / "README.md"
    article.write_text(f"before\n{report.TABLE_START}old\n{report.TABLE_END}\nafter\n")
    for run in reversed(runs):
        report.record_run(run, tmp_path / "results.json")
    assert report.read_runs(tmp_path / "results.json") == runs
    table = report.results_table(runs)
    assert article.read_text() == f"before\n{report.TABLE_START}{table}{report.TABLE_END}\nafter\n"
    assert table.count("\n| ") == 1 + len(runs)


# --- its weights file ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.npz"
    network.Network(3).save(path, "three")
    return path


def test_weights_come_back_and_files_repeat(weights_file, tmp_path):
    net = network.Network(4)
    assert net.load(weights_file) == "three"
    assert all(np.array_equal(net.parameters[name], array) for name, array in network.Network(3).parameters.items())
    assert np.array_equal(net.layers["fc1"].weight, network.Network(3).parameters["fc1.weight"])
    net.save(tmp_path / "again.npz", "three")
    assert (tmp_path / "again.npz").read_bytes() == weights_file.read_bytes()


@given(st.data())
@settings(max_examples=40)
def test_damaged_weights_are_one_error(weights_file, tmp_path_factory, drawn):
    content = bytearray(weights_file.read_bytes())
    if drawn.draw(st.booleans(), "cut"):
        del content[drawn.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(drawn.draw(st.integers(1, 5))):
            content[drawn.draw(st.integers(0, len(content) - 1))] ^= drawn.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "weights.npz"
    path.write_bytes(content)
    net, untouched = network.Network(5), network.Network(5)
    try:
        net.load(path)
    except network.WeightsError as error:
        assert str(path) in str(error)
        assert all(np.array_equal(array, untouched.parameters[name]) for name, array in net.parameters.items())
    else:  # a flipped bit where zip keeps no checksum: its dates, its comments
        expected = network.Network(3).parameters
        assert all(np.array_equal(array, expected[name]) for name, array in net.parameters.items())


def test_foreign_weights_are_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    parameters = network.Network(0).parameters
    wrong = {
        "missing": {name: array for name, array in parameters.items() if name != "fc2.bias"},
        "shape": {**parameters, "conv1.weight": parameters["conv1.weight"][:8]},
        "dtype": {**parameters, "fc2.bias": parameters["fc2.bias"].astype(np.float64)},
        "nan": {**parameters, "fc2.bias": np.full(10, np.nan, np.float32)},
        "pickle": {**parameters, "fc2.bias": np.array([Payload()], dtype=object)},
    }
    for name, arrays in wrong.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(network.WeightsError, match=f"{name}.npz"):
            network.Network(0).load(tmp_path / f"{name}.npz")
    assert not (tmp_path / "executed").exists()
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(network.WeightsError, match=r"one\.npy"):
        network.Network(0).load(tmp_path / "one.npy")


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.npz"
    network.Network(0).save(path, "old")

    def interrupted(file, **arrays):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        network.Network(1).save(path, "new")
    assert network.Network(2).load(path) == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["weights.npz"]


# --- its article -----------------------------------------------------------------------------------------------------


ARTICLE = (LESSON / "README.md").read_text(encoding="utf-8")


def test_the_articles_code_is_the_sources():
    sources = [path.read_text(encoding="utf-8") for path in LESSON.glob("*.py")]
    blocks = re.findall(r"```python\n(.*?)```", ARTICLE, re.DOTALL)
    assert len(blocks) >= 10
    for block in blocks:
        pieces = block.split("\n\n")  # a blank line stands for what is left out
        assert all(any(is_excerpt(piece, source) for source in sources) for piece in pieces), block


def test_the_articles_results_are_the_recorded_ones():
    runs = report.read_runs(LESSON / "results.json")
    assert f"{report.TABLE_START}{report.results_table(runs)}{report.TABLE_END}" in ARTICLE
    assert {(run["data"], run["seed"]) for run in runs} == {
        (name, seed) for name in ("mnist_10k.npz", "scikit-learn digits") for seed in (0, 1, 2)
    }
    for run in runs:
        assert run["test_accuracy"] == pytest.approx(1 - run["mistakes"] / run["test_digits"], abs=1e-5)
        assert run["epochs"] == mnist.default_epochs(run["train_digits"])
        assert run["test_accuracy"] >= (0.975 if run["data"].startswith("mnist") else 0.98)


def test_the_articles_table_of_layers_is_the_networks():
    net = network.Network()
    outputs = {}
    net.forward(np.zeros((1, 28, 28, 1), np.float32), lambda name, y: outputs.__setitem__(name, y.shape[1:]))
    multiply_adds = {
        name: int(np.prod(outputs[name][:-1])) * layer.weight.size
        for name, layer in net.layers.items()
        if hasattr(layer, "weight")
    }
    for name, work in multiply_adds.items():
        shape = "x".join(map(str, outputs[name]))
        parameters = net.parameters[f"{name}.weight"].size + net.parameters[f"{name}.bias"].size
        if name == "fc1":
            assert f"| `fc1`, `relu3` | {shape} | {parameters:,} | {work:,} |" in ARTICLE
        else:
            assert re.search(rf"\| `{name}`[^|]*\| {shape} \| {parameters:,} \| {work:,} \|", ARTICLE), name
    total = sum(array.size for array in net.parameters.values())
    assert f"| together | | {total:,} | {sum(multiply_adds.values()):,} |" in ARTICLE
    convolutions = multiply_adds["conv1"] + multiply_adds["conv2"]
    assert f"{100 * convolutions / sum(multiply_adds.values()):.0f} % of the arithmetic with 6 %" in ARTICLE
    kernels = sum(net.parameters[f"conv{i}.{kind}"].size for i in (1, 2) for kind in ("weight", "bias"))
    assert round(100 * kernels / total) == 6
    assert round(4.09e9 / sum(multiply_adds.values()), -1) == 1350 and "about 1,350 times" in ARTICLE


def test_the_articles_constants_are_the_sources():
    assert f"starts at {training.LEARNING_RATE:g} and" in ARTICLE
    assert f"(each up to {training.WARP:g} either way)" in ARTICLE and f"(up to {training.SHIFT} pixels)" in ARTICLE
    assert f"comes from {training.BATCH_SIZE} digits" in ARTICLE
    assert mnist.default_epochs(60_000) == 4 and "four epochs of it are the default" in ARTICLE
    assert f"{np.log(10):.2f}" in ARTICLE
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", ARTICLE):
        assert (LESSON / name).stat().st_size < 200_000
