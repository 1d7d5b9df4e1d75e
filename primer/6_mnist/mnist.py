"""Lesson 6: train a small convolutional network on handwritten digits, and read digits with it. NumPy only.

python mnist.py train                         train on scikit-learn's digits; results go to mnist_out/
python mnist.py train --data DIR|FILE.npz     train on MNIST's four files, or images and labels of one file
python mnist.py train --data download         fetch MNIST's four files, and train on them
python mnist.py predict DIGIT.png             read a picture of one digit
python mnist.py check                         compare every gradient with a numerical one
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from digits import centre_digit, find_ink, load_digits
from gradient_check import check_everything
from learning import evaluate, predict, train_epochs
from matplotlib.figure import Figure
from network import Network
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from threadpoolctl import threadpool_limits

sys.path.append(str(Path(__file__).parents[1]))  # where lesson.py is
import lesson

MISTAKES_SHOWN = 50
COLUMNS = 10
GRADIENT_TOLERANCE = 1e-6  # a right gradient is about 1e-10 off in float64, a wrong one 1e-2 or more


def default_epochs(digits: int) -> int:
    """As many as show the network about 100,000 digits, but at least 4 and at most 16."""
    return min(16, max(4, round(100_000 / digits)))


def train(options: argparse.Namespace) -> None:
    """Train; save the weights after every epoch, so that Ctrl-C loses one epoch at most; draw the figures."""
    name, train_images, train_labels, test_images, test_labels = load_digits(options.data, options.out / "data")
    epochs = default_epochs(len(train_images)) if options.epochs is None else options.epochs
    if epochs < 1:
        raise ValueError(f"expected at least 1 epoch, got {epochs}")
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"{name}: {len(train_images)} digits to train on, {len(test_images)} held out; {epochs} epochs")
    network, history, started = Network(options.seed), [], time.process_time()
    for loss, accuracy in train_epochs(network, train_images, train_labels, epochs, options.seed):
        test_loss, test_accuracy, probabilities = evaluate(network, test_images, test_labels)
        history.append((loss, accuracy, test_loss, test_accuracy))
        epoch = f"epoch {len(history)} of {epochs}"
        network.save(options.out / "weights.safetensors", f"{name}, seed {options.seed}, {epoch}")
        print(f"{epoch}: loss {loss:.4f}, {accuracy:.2%} right; held out: {test_loss:.4f}, {test_accuracy:.2%}")
    seconds = time.process_time() - started
    predictions = probabilities.argmax(axis=1)
    save_curves(history, options.out / "curves.png")
    save_mistakes(test_images, test_labels, probabilities, options.out / "mistakes.png")
    print("held-out digits: a row for every true digit, a column for every answer")
    print(confusion_matrix(test_labels, predictions, labels=range(10)))
    print(f"{np.count_nonzero(predictions != test_labels)} mistakes, {test_accuracy:.2%} right; ", end="")
    print(f"{seconds:.0f} s of processor time; weights.safetensors, curves.png, mistakes.png are in {options.out}")


def save_curves(history: list[tuple], path: str | Path) -> None:
    """Loss and accuracy by epoch. history: [(loss, accuracy, held-out loss, held-out accuracy)]."""
    figure = Figure(figsize=(9, 3.6), dpi=100, layout="constrained")
    epochs = np.arange(1, len(history) + 1)
    values = np.array(history)
    left, right = figure.subplots(1, 2)
    for column, label in ((0, "training, distorted, while learning"), (2, "held out")):
        left.plot(epochs, values[:, column], marker=".", label=label)
        right.plot(epochs, 100 * values[:, column + 1], marker=".", label=label)
    for axes, title in ((left, "cross-entropy"), (right, "accuracy, %")):
        axes.set(xlabel="epoch", ylabel=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    left.set_yscale("log")
    right.legend(loc="lower right")
    figure.savefig(path)


def save_mistakes(images: NDArray, labels: NDArray, probabilities: NDArray, path: str | Path) -> None:
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
    figure.savefig(path)


def read_pictures(options: argparse.Namespace) -> None:
    """Print what the network sees in each picture; --stages draws its way through the layers."""
    network = Network()
    print(f"weights: {network.load(options.weights)}")
    for path in options.pictures:
        gray = lesson.read_picture(path, "L")
        try:
            digit = centre_digit(find_ink(gray))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        probabilities = predict(network, digit[np.newaxis])[0]
        best, second, third = np.argsort(-probabilities)[:3]
        others = f"then {second} {probabilities[second]:.1%}, {third} {probabilities[third]:.1%}"
        print(f"{path}: {best} ({probabilities[best]:.1%}; {others})")
        if options.stages:
            figure = Path(f"{Path(path).stem}_stages.png")
            lesson.draw(stages(network, gray, digit, probabilities), columns=3).savefig(figure)
            print(f"wrote {figure}")


def stages(network: Network, gray: NDArray, digit: NDArray, probabilities: NDArray) -> list[tuple]:
    """What `--stages` shows: the picture, the network's input, its answer, and the channels of its layers."""
    panels = [
        ("picture", gray),
        ("28x28, centred: the input", digit),
        ("probabilities", lambda axes: axes.bar(range(10), probabilities, tick_label=range(10))),
    ]

    def probe(name, activation):
        if name in ("conv1", "relu1", "relu2"):
            maps = activation[0].transpose(2, 0, 1)
            maps = maps / np.maximum(np.abs(maps).max(axis=(1, 2), keepdims=True), 1e-9)
            framed = np.pad(maps, ((0, 0), (1, 1), (1, 1)), constant_values=maps.min())
            height, width = maps.shape[1:]
            panels.append(
                (f"{name}: {len(maps)} of {height}x{width}", np.block([list(r) for r in np.split(framed, 4)]))
            )

    network.forward(digit[np.newaxis, ..., np.newaxis] / np.float32(255), probe)
    return panels


def check_gradients(options: argparse.Namespace) -> None:
    """Print every gradient's distance from the numerical one."""
    failed = 0
    for name, error in check_everything(options.seed):
        right = error <= GRADIENT_TOLERANCE  # False for NaN
        print(f"{error:9.1e}  {'ok   ' if right else 'WRONG'}  {name}")
        failed += not right
    if failed:
        raise ValueError(f"{failed} gradients are wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    command = commands.add_parser("train", help="train, and report on the digits held out")
    command.set_defaults(run=train)
    command.add_argument("--data", metavar="PATH", help="a directory of MNIST's files, an .npz, or the word download")
    command.add_argument("--epochs", type=int, help="passes over the digits (default: by their number)")
    command.add_argument("--seed", type=int, default=0, help="of the weights, the order and the distortions")
    command.add_argument(
        "--out", type=Path, default="mnist_out", help="directory of the results (default: %(default)s)"
    )
    command = commands.add_parser("predict", help="read pictures of one digit each")
    command.set_defaults(run=read_pictures)
    command.add_argument("pictures", nargs="+", metavar="DIGIT.png")
    command.add_argument(
        "--weights", default="mnist_out/weights.safetensors", metavar="FILE", help="default: %(default)s"
    )
    command.add_argument("--stages", action="store_true", help="draw each picture's way through the layers")
    command = commands.add_parser("check", help="compare every gradient with a numerical one")
    command.set_defaults(run=check_gradients)
    command.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(sys.argv[1:] or ["train"])
    with threadpool_limits(1):  # runs repeat bit for bit on any number of cores
        options.run(options)


if __name__ == "__main__":
    lesson.run(main)
