"""Train a small convolutional network on handwritten digits, and read digits with it. NumPy only.

    python mnist.py                               train on scikit-learn's digits; results go to mnist_out/
    python mnist.py train --data DIR|FILE.npz     train on MNIST's idx files, or images and labels of one file
    python mnist.py train --data download         train on MNIST as torchvision downloads it
    python mnist.py predict DIGIT.png             read a picture of one digit
    python mnist.py check                         compare every gradient with a numerical one
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from data import DataError, load_digits
from digit import DigitError, centre_digit, find_ink, read_gray
from gradient_check import check_everything
from network import Network, WeightsError
from report import (
    ReportError,
    machine,
    print_confusion,
    read_runs,
    record_run,
    save_curves,
    save_mistakes,
    save_stages,
)
from threadpoolctl import threadpool_limits
from tqdm import tqdm
from training import evaluate, predict, train_epochs

OUT = "mnist_out"
GRADIENT_TOLERANCE = 1e-6  # a right gradient is about 1e-10 off in float64, a wrong one 1e-2 or more


def default_epochs(digits):
    """As many as show the network about 100,000 digits, but at least 4 and at most 16."""
    return min(16, max(4, round(100_000 / digits)))


def train(options):
    """Train, save the weights after every epoch, and write the report."""
    digits = load_digits(options.data, download_to=options.out / "data")
    options.out.mkdir(parents=True, exist_ok=True)
    record = options.record or options.out / "results.json"
    read_runs(record)  # refuse a foreign file now, not after minutes
    epochs = options.epochs or default_epochs(len(digits.train_images))
    print(
        f"{digits.name}: {len(digits.train_images)} digits to train on, {len(digits.test_images)} held out; "
        f"{epochs} epochs, seed {options.seed}"
    )
    network = Network(options.seed)
    started, processor_started = time.perf_counter(), time.process_time()
    history, probabilities = fit(network, digits, epochs, options)
    seconds, processor_seconds = time.perf_counter() - started, time.process_time() - processor_started
    predictions = probabilities.argmax(axis=1)
    save_curves(history, options.out / "curves.png")
    save_mistakes(digits.test_images, digits.test_labels, probabilities, options.out / "mistakes.png")
    run = {
        "data": digits.name,
        "seed": options.seed,
        "epochs": epochs,
        "train_digits": len(digits.train_images),
        "test_digits": len(digits.test_images),
        "mistakes": int((predictions != digits.test_labels).sum()),
        "test_accuracy": round(history[-1]["test_accuracy"], 5),
        "test_loss": round(history[-1]["test_loss"], 5),
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor_seconds, 1),  # differs where other programs run too
        "threads": options.threads,
        "machine": machine(),
        "numpy": np.__version__,
    }
    record_run(run, record)
    print_confusion(digits.test_labels, predictions)
    print(
        f"{100 * run['test_accuracy']:.2f} % of the held-out digits right, {run['mistakes']} mistakes, "
        f"{seconds:.0f} s\nwrote weights.npz, curves.png and mistakes.png to {options.out}, the result to {record}"
    )


def fit(network, digits, epochs, options):
    """The epochs, with a progress bar -> (history, the last epoch's probabilities of the held-out digits).

    Ctrl-C ends the program; the last finished epoch's weights stay.
    """
    weights = options.out / "weights.npz"
    history = []
    try:
        with tqdm(total=epochs * len(digits.train_images), unit="digit", unit_scale=True, disable=None) as bar:

            def on_batch(count, loss, accuracy):
                bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{100 * accuracy:.1f} %", refresh=False)
                bar.update(count)

            passes = train_epochs(network, digits.train_images, digits.train_labels, epochs, options.seed, on_batch)
            for epoch, (loss, accuracy) in enumerate(passes, start=1):
                test_loss, test_accuracy, probabilities = evaluate(network, digits.test_images, digits.test_labels)
                network.save(
                    weights,
                    f"{digits.name}, {len(digits.train_images)} digits, seed {options.seed}, "
                    f"epoch {epoch} of {epochs}, {100 * test_accuracy:.2f} % of the held-out digits right",
                )
                names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
                history.append(dict(zip(names, (loss, accuracy, test_loss, test_accuracy))))
                bar.write(
                    f"epoch {epoch:2}/{epochs}  loss {loss:.4f}  accuracy {100 * accuracy:.2f} %   "
                    f"held out: loss {test_loss:.4f}  accuracy {100 * test_accuracy:.2f} %"
                )
    except KeyboardInterrupt:
        saved = f"the weights of epoch {len(history)} are in {weights}" if history else "nothing was saved"
        print(f"interrupted; {saved}", file=sys.stderr)
        sys.exit(130)
    return history, probabilities


def read_pictures(options):
    """Print what the network sees in each picture; 1 if one of them could not be read, else 0."""
    network = Network()
    description = network.load(options.weights)
    print(f"weights: {description}")
    failed = 0
    for path in options.pictures:
        try:
            gray = read_gray(path)
            digit = centre_digit(find_ink(gray))
        except DigitError as error:
            print(f"mnist.py: {path}:", " ".join(str(error).split()), file=sys.stderr)
            failed = 1
            continue
        probabilities = predict(network, digit[np.newaxis])[0]
        best, *next_best = np.argsort(-probabilities)[:3]
        others = ", ".join(f"{other} {100 * probabilities[other]:.1f} %" for other in next_best)
        print(f"{path}: {best} ({100 * probabilities[best]:.1f} %; then {others})")
        if options.stages:
            activations = {}
            network.forward(digit[np.newaxis, ..., np.newaxis] / np.float32(255), activations.__setitem__)
            maps = {name: activations[name][0] for name in ("relu1", "relu2")}
            save_stages(gray, digit, maps, probabilities, options.stages)
            print(f"wrote {options.stages}")
    return failed


def check_gradients(options):
    """Print every gradient's distance from the numerical one; 1 if one is too far, else 0."""
    failed = 0
    for name, error in check_everything(options.seed):
        right = error <= GRADIENT_TOLERANCE  # False for NaN
        print(f"{error:9.1e}  {'ok   ' if right else 'WRONG'}  {name}")
        failed |= not right
    return int(failed)


class Parser(argparse.ArgumentParser):
    """A wrong argument ends the program with one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def integer(smallest):
    """An argparse type: an integer no smaller than `smallest`."""

    def parse(text):
        if (value := int(text)) < smallest:
            raise argparse.ArgumentTypeError(f"{value} is less than {smallest}")
        return value

    parse.__name__ = "integer"
    return parse


def parse_arguments(arguments):
    """The command line -> options with `.run`, the function to call. No command at all means `train`."""
    parser = Parser(prog="mnist.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("train", help="train, and report on the digits held out")
    command.set_defaults(run=train)
    command.add_argument("--data", metavar="PATH", help="a directory of idx files, an .npz, or the word download")
    command.add_argument("--epochs", type=integer(1), help="passes over the digits (default: by their number)")
    command.add_argument("--seed", type=integer(0), default=0, help="of the weights, the order and the distortions")
    command.add_argument("--out", type=Path, default=Path(OUT), help=f"directory of the results (default {OUT})")
    command.add_argument("--record", type=Path, metavar="FILE", help="JSON list of runs (default OUT/results.json)")
    command.add_argument("--threads", type=integer(1), default=1, help="of NumPy's matrix products (default 1)")
    command = commands.add_parser("predict", help="read pictures of one digit each")
    command.set_defaults(run=read_pictures, threads=1)
    command.add_argument("pictures", nargs="+", metavar="DIGIT.png")
    command.add_argument("--weights", default=f"{OUT}/weights.npz", metavar="FILE", help="default: %(default)s")
    command.add_argument("--stages", metavar="FILE.png", help="write the way of the (one) picture through the layers")
    command = commands.add_parser("check", help="compare every gradient with a numerical one")
    command.set_defaults(run=check_gradients, threads=1)
    command.add_argument("--seed", type=integer(0), default=0)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["train", *arguments]
    options = parser.parse_args(arguments)
    if getattr(options, "stages", None) and len(options.pictures) > 1:
        parser.error("--stages shows one picture: give one")
    return options


def main(arguments=None):
    """The command line's exit status. One BLAS thread by default: runs repeat bit for bit on any number of cores."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    try:
        with threadpool_limits(options.threads):
            return options.run(options) or 0
    except (DataError, WeightsError, ReportError, OSError) as error:
        print("mnist.py:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
