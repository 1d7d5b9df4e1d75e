"""The log of a training, as a table and as a picture."""

import csv

from matplotlib.figure import Figure

COLUMNS = ("epoch", "size", "learning_rate", "loss", "train_top1", "top1", "top5", "minutes")


def write(rows, directory):
    """Write log.csv and log.svg. rows: one dictionary with the keys COLUMNS for each epoch."""
    with open(directory / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.4g}" for key, value in row.items()} for row in rows)
    draw(rows, directory / "log.svg")


def draw(rows, path):
    """Draw loss and accuracy against epochs; bands of gray show the size of the pictures."""
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.4), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [row["loss"] for row in rows], color="#0072B2")
    left.set_title("loss in training", loc="left")
    for key, label, color in (("top5", "validation, top 5", "#009E73"), ("top1", "validation, top 1", "#D55E00"),
                              ("train_top1", "training, top 1", "#777777")):  # fmt: skip
        right.plot(epochs, [100 * row[key] for row in rows], color=color, label=label)
    right.set_title("recognised, %", loc="left")
    right.set_ylim(0)
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xlabel("epochs")
        axes.grid(color="#DDDDDD")
        axes.spines[["top", "right"]].set_visible(False)
        mark_sizes(axes, rows)
    figure.savefig(path, metadata={"Date": None})


def mark_sizes(axes, rows):
    for size in sorted({row["size"] for row in rows}):
        epochs = [row["epoch"] for row in rows if row["size"] == size]
        axes.axvline(max(epochs), color="#BBBBBB", linestyle=":")
        axes.annotate(f"{size} px", (max(epochs), 1.0), (-3, -3), xycoords=("data", "axes fraction"),
                      textcoords="offset points", ha="right", va="top", size=8, color="#555555")  # fmt: skip
