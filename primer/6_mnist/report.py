"""What a training run leaves behind: the confusion matrix, the pictures, and its line in a results file."""

import json
import os
import platform
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sklearn.metrics import confusion_matrix

MISTAKES_SHOWN = 50
COLUMNS = 10
TABLE_START, TABLE_END = "<!-- results -->", "<!-- /results -->"


class ReportError(Exception):
    """A results file that is not one."""


def print_confusion(labels, predictions, console=None):
    """A row for every true digit, a column for every answer; a dot is zero."""
    table = Table(title="held-out digits: true (rows) and predicted (columns)")
    for heading in ("true", *map(str, range(10)), "right"):
        table.add_column(heading, justify="right")
    for digit, row in enumerate(confusion_matrix(labels, predictions, labels=range(10))):
        styles = ["green" if column == digit else "bold red" for column in range(10)]
        cells = [Text(str(count) if count else "·", style if count else "dim") for count, style in zip(row, styles)]
        right = f"{100 * row[digit] / row.sum():.1f} %" if row.sum() else "–"
        table.add_row(str(digit), *cells, right)
    (console or Console()).print(table)


def save_figure(figure, path):
    """PNG without the date and version that Matplotlib adds, so that equal runs leave equal files."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})


def save_curves(history, path):
    """Loss and accuracy by epoch. history: [{"train_loss", "train_accuracy", "test_loss", "test_accuracy"}]."""
    figure = Figure(figsize=(9, 3.6), dpi=100, layout="constrained")
    epochs = np.arange(1, len(history) + 1)
    for axes, kind, factor in zip(figure.subplots(1, 2), ("loss", "accuracy"), (1, 100), strict=True):
        for part, label in (("train", "training, distorted, while learning"), ("test", "held out")):
            values = [factor * epoch[f"{part}_{kind}"] for epoch in history]
            axes.plot(epochs, values, marker=".", label=label)
        axes.set(xlabel="epoch", ylabel="cross-entropy" if kind == "loss" else "accuracy, %")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.axes[0].set_yscale("log")
    figure.axes[1].legend(loc="lower right")
    save_figure(figure, path)


def save_mistakes(images, labels, probabilities, path):
    """The held-out digits that the network got wrong, the surest first, at most `MISTAKES_SHOWN`.

    The page's last row is filled with digits that it got right, those that it was least sure of.
    """
    predictions, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = predictions != labels
    order = np.lexsort((np.where(wrong, -confidence, confidence), ~wrong))
    rows = min(max(1, -(-int(wrong.sum()) // COLUMNS)), MISTAKES_SHOWN // COLUMNS)
    figure = Figure(figsize=(COLUMNS, 0.6 + 1.45 * rows), dpi=80, layout="constrained")
    figure.suptitle(f"{wrong.sum()} mistakes in {len(labels)} held-out digits: true → predicted (right ones in gray)")
    for axes in figure.subplots(rows, COLUMNS, squeeze=False).flat:
        axes.axis("off")
    for axes, index in zip(figure.axes, order):
        axes.imshow(images[index], cmap="gray_r", vmin=0, vmax=255)
        title = f"{labels[index]} → {predictions[index]}\n{100 * confidence[index]:.0f} %"
        axes.set_title(title, fontsize=10, color="crimson" if wrong[index] else "gray")
    save_figure(figure, path)


def save_stages(picture, digit, activations, probabilities, path):
    """One picture's way through the network.

    picture: (height, width) gray; digit: (28, 28); activations: {"conv1": (h, w, channels), …}; probabilities: (10,).
    """
    figure = Figure(figsize=(12, 6), dpi=100, layout="constrained")
    top, *others = figure.subfigures(
        1 + len(activations), 1, height_ratios=[2.4, *(0.6 + -(-maps.shape[2] // 16) for maps in activations.values())]
    )
    first, second, third = top.subplots(1, 3)
    first.imshow(picture, cmap="gray", vmin=0, vmax=255)
    first.set_title("the picture, gray")
    second.imshow(digit, cmap="gray", vmin=0, vmax=255)
    second.set_title("28x28, centred: the network's input")
    third.bar(np.arange(10), probabilities)
    third.set(xticks=range(10), ylim=(0, 1), title="probabilities")
    for axes in (first, second):
        axes.axis("off")
    for part, (name, maps) in zip(others, activations.items()):
        height, width, channels = maps.shape
        part.suptitle(f"{name}: {channels} channels of {height}x{width}, each scaled to its own range")
        for channel, axes in enumerate(part.subplots(-(-channels // 16), 16).flat):
            axes.imshow(maps[:, :, channel], cmap="gray")
            axes.axis("off")
    save_figure(figure, path)


def machine():
    """The processor's name and how many cores this process may use, for a results file."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0].strip() if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def read_runs(path):
    """The runs that `record_run` put into a JSON file; none where there is no file. Raises ReportError."""
    if not Path(path).exists():
        return []
    try:
        runs = json.loads(Path(path).read_text(encoding="utf-8"))
        [(run["data"], run["seed"]) for run in runs]
    except (ValueError, TypeError, KeyError):
        raise ReportError(f"{path}: not a list of this lesson's runs; give --record another name") from None
    return runs


def record_run(run, path):
    """Put `run` into the JSON list at `path`, in place of an earlier run on the same data with the same seed.

    A README.md beside it that has the table's two markers gets its table written anew.
    """
    runs = [other for other in read_runs(path) if (other["data"], other["seed"]) != (run["data"], run["seed"])]
    runs = sorted([*runs, run], key=lambda other: (other["data"], other["seed"]))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(runs, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    article = path.with_name("README.md")
    if article.exists() and TABLE_START in (text := article.read_text(encoding="utf-8")):
        before, _, rest = text.partition(TABLE_START)
        after = rest.partition(TABLE_END)[2]
        article.write_text(before + TABLE_START + results_table(runs) + TABLE_END + after, encoding="utf-8")


def results_table(runs):
    """The runs as a Markdown table, and the machines that they ran on."""
    rows = ["| data | seed | trained on | held out | epochs | mistakes | accuracy | processor time |", "|---" * 8 + "|"]
    for run in runs:
        rows.append(
            f"| {run['data']} | {run['seed']} | {run['train_digits']:,} | {run['test_digits']:,} | {run['epochs']} "
            f"| {run['mistakes']} | {100 * run['test_accuracy']:.2f} % | {run['processor_seconds']:.0f} s |"
        )
    setups = sorted({f"{run['machine']}, NumPy {run['numpy']}, BLAS threads: {run['threads']}" for run in runs})
    return "\n" + "\n".join([*rows, "", "Measured on " + "; ".join(setups) + "."]) + "\n"
