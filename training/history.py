"""The log of a training, as a table and as a picture."""

import csv
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from common.plot_style import BLUE, FAINT, GREEN, RED, STYLE, save

COLUMNS = ("epoch", "size", "learning_rate", "loss", "train_top1", "top1", "top5", "minutes")
ACCURACIES = {
    "top5": ("validation, top 5", GREEN),
    "top1": ("validation, top 1", RED),
    "train_top1": ("training", FAINT),
}


def write(rows: list[dict[str, float]], directory: Path) -> None:
    """Write log.csv and log.svg. rows: one dictionary with the keys COLUMNS for each epoch."""
    with open(directory / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.4g}" for key, value in row.items()} for row in rows)
    draw(rows, directory / "log.svg")


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Draw loss and accuracy against epochs; dotted lines show where pictures of a size end."""
    epochs = [row["epoch"] for row in rows]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        loss, recognised = figure.subplots(1, 2)
        loss.plot(epochs, [row["loss"] for row in rows], color=BLUE)
        loss.set_title("loss in training", loc="left")
        for key, (label, color) in ACCURACIES.items():
            recognised.plot(epochs, [100 * row[key] for row in rows], color=color, label=label)
        recognised.set_title("recognised, %", loc="left")
        recognised.set_ylim(0, 100)
        recognised.legend(frameon=False, loc="lower right")
        for axes in (loss, recognised):
            axes.set_xlabel("epochs")
            axes.grid()
            for size, alike in groupby(rows, key=lambda row: row["size"]):
                last = max(row["epoch"] for row in alike)
                axes.axvline(last, color=FAINT, linestyle=":")
                look = {"ha": "right", "va": "top", "rotation": 90, "size": 8}
                axes.text(last, 1, f"{size:.0f} px ", transform=axes.get_xaxis_transform(), **look)
        save(figure, path)
