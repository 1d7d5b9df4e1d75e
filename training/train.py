"""Train a ResNet-50 on small pictures, and pack it small enough to ship.

    python training/train.py --data tiny-imagenet-200
    python training/train.py --data my_pictures --out training/run/mine --epochs 30
    python training/train.py --data my_pictures --out training/run/tuned --start training/run/resnet50.npz --rate 0.05

--out gets a checkpoint, from which the same command goes on after a stop; log.csv and log.svg; at the end
resnet50.pth, a state dict, and resnet50.npz, the packed model, which `common/export_weights.py demo` unpacks.

The learning rate rises, stays, and falls, each on a line (Haegele et al., "Scaling laws and compute-optimal training
beyond fixed training durations", 2024): until it falls, nothing depends on --epochs, so that a training can be made
longer afterwards. While it falls the pictures grow (Howard, "Training ImageNet in 3 hours for 25 minutes", 2018).

--start goes on from a network that is trained already: the learning rate falls from the first step on. It sees parts of
pictures, and at the end whole ones, larger, so that things have the size at which it learned them (Touvron et al.,
"Fixing the train-test resolution discrepancy", 2019).
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, Python looks beside this file only

from common.checkpoint import checkpoint  # noqa: E402
from common.packed import pack, unpack  # noqa: E402
from common.torchvision_import import import_torchvision  # noqa: E402
from common.weights_file import ExportError  # noqa: E402
from training import batches, history  # noqa: E402
from training.batches import Dataset  # noqa: E402
from training.gemm_conv import use_gemm  # noqa: E402
from training.pictures import DataError, find  # noqa: E402


class Phase(NamedTuple):
    until: float  # share of all steps
    size: int  # height and width of the pictures
    change: Callable[[Tensor, Generator], Tensor]  # of the pictures, each time they are shown


PHASES = (Phase(0.65, 32, batches.augment), Phase(0.88, 48, batches.augment), Phase(1.0, 64, batches.augment))
FINE_TUNING = (Phase(0.65, 48, batches.vary), Phase(0.9, 64, batches.vary), Phase(1.0, 80, batches.augment))
WARM_UP = 1.0  # epochs in which the learning rate rises
COOL_DOWN = 0.55  # share of all steps after which it falls
SMOOTHING = 0.1  # of the labels
REPORT = "epoch {epoch:.4g}, pictures of {size}x{size}: loss {loss:.3f}, validation top-1 {top1:.1%}, top-5 {top5:.1%}"
SAVE_EVERY = 180  # seconds between checkpoints
REMEDY = "give a lower --rate, and another --out"
QUICK = 2000  # validation pictures after each epoch, or a few more; all of them at the end
TRY_SIZES = (64, 80, 96)  # the best size to recognise at need not be the one trained on


class Training:
    """A network, its optimiser, and how far they have come.

    options: epochs, batch, rate, decay, seed, start, as on the command line. labels: the names of the classes. Raises
    DataError or ExportError for a start that does not fit.
    """

    def __init__(self, options: argparse.Namespace, dataset: Dataset, labels: list[str], device: torch.device):
        torch.manual_seed(options.seed)
        model = import_torchvision().models.resnet50(num_classes=len(labels), zero_init_residual=True)
        if device.type == "cpu":
            use_gemm(model)
        self.model = model.to(device, memory_format=torch.channels_last)
        kernels = [p for p in model.parameters() if p.ndim > 1]  # biases and batch norm do not decay
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": kernels, "weight_decay": options.decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True, fused=True)
        self.recipe = {"batch": options.batch, "rate": options.rate, "decay": options.decay, "seed": options.seed,
                       "pictures": len(dataset.labels), "labels": labels, "start": str(options.start)}  # fmt: skip
        self.dataset, self.device = dataset, device
        self.per_epoch = len(dataset.labels) // options.batch
        self.steps = math.ceil(options.epochs * self.per_epoch)
        self.phases, self.warm_up, self.cool_down = PHASES, WARM_UP * self.per_epoch, math.floor(COOL_DOWN * self.steps)
        if options.start:
            self.phases, self.warm_up, self.cool_down = FINE_TUNING, 0, 0
            take_over(self.model, options.start)
        self.step, self.seconds, self.log = 0, 0.0, []

    def take_step(self) -> Tensor:
        """Learn from one batch. Return its (loss, share of pictures recognised)."""
        pictures, labels = self.batch()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_bfloat16(self.device)):
            logits = self.model(pictures)
            loss = functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])

    def batch(self) -> tuple[Tensor, Tensor]:
        """The pictures and labels of this step: the same in a resumed training."""
        epoch, number = divmod(self.step, self.per_epoch)
        seed, phase = self.recipe["seed"], self.phase(self.step)
        chosen = batches.shuffled(len(self.dataset.labels), self.recipe["batch"], epoch, seed)[number]
        pixels = phase.change(self.dataset.pixels[chosen], batches.generator(seed + 1, self.step))
        return batches.prepare(pixels, phase.size, self.device), self.dataset.labels[chosen].to(self.device)

    def learning_rate(self) -> float:
        rising = self.step / self.warm_up if self.step < self.warm_up else 1.0
        falling = (self.steps - self.step) / (self.steps - self.cool_down)
        return self.recipe["rate"] * min(rising, 1.0, falling)

    def phase(self, step: int) -> Phase:
        return next(phase for phase in self.phases if step < phase.until * self.steps)

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "recipe": self.recipe,
                 "step": self.step, "steps": self.steps, "cool_down": self.cool_down, "seconds": self.seconds,
                 "log": self.log}  # fmt: skip
        with open(f"{path}.unfinished", "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{path}.unfinished", path)

    def resume(self, directory: Path) -> None:
        """Go on from the last checkpoint there that leads to `steps` steps. Raises DataError if none does."""
        found = [path for name in ("checkpoint.pt", "before_cool_down.pt") if (path := directory / name).exists()]
        for path in found:
            try:
                state = torch.load(path, map_location=self.device, weights_only=True)
            except Exception as error:  # torch raises whatever a damaged file makes it trip over
                print(f"{path} is damaged ({' '.join(str(error).split())[:80]})", file=sys.stderr)
                continue
            if state["recipe"] != self.recipe:
                raise DataError(f"{path} is of a training with other pictures or options; choose another --out")
            if state["steps"] == self.steps or state["step"] <= min(state["cool_down"], self.cool_down):
                self.model.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]
                return
        if found:
            raise DataError(
                f"{directory} has no intact checkpoint, or is too far on for other --epochs than it began with; "
                "choose another --out"
            )


def take_over(model: nn.Module, path: Path) -> None:
    """Take over the weights in a state dict or packed file, but for a classifier of another number of classes.

    Raises ExportError.
    """
    arrays = unpack(path)[0] if path.suffix == ".npz" else checkpoint(path)
    own = model.state_dict()
    learned = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if learned["fc.bias"].shape != own["fc.bias"].shape:
        learned |= {name: own[name] for name in ("fc.weight", "fc.bias")}
    model.load_state_dict(own | learned)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    able = torch.cpu.get_capabilities()
    return device.type == "cuda" or able.get("amx_bf16", False) or able.get("avx512_bf16", False)


@torch.no_grad()
def accuracy(model: nn.Module, dataset: Dataset, size: int, device: torch.device, batch: int = 200) -> list[float]:
    """Return [top-1, top-5]: the share of pictures whose class is the likeliest, and among the five likeliest."""
    model.eval()
    right = torch.zeros(2, dtype=torch.float64)
    for pixels, labels in zip(dataset.pixels.split(batch), dataset.labels.split(batch)):
        logits = model(batches.prepare(pixels, size, device))
        if not logits.isfinite().all():
            raise DataError(f"the network's answers are no longer finite: {REMEDY}")
        found = logits.topk(min(5, logits.shape[1])).indices == labels.to(device)[:, None]
        right += torch.stack([found[:, 0].sum(), found.sum()]).cpu()
    model.train()
    return (right / len(dataset.labels)).tolist()


def run(training: Training, validation: Dataset, directory: Path) -> None:
    """Take the steps that are left; log, draw and save on the way. Raises DataError if the loss is no number."""
    every = max(1, len(validation.labels) // QUICK)  # they may lie sorted by class
    quick = Dataset(validation.pixels[::every], validation.labels[::every])
    means, started, saved = [], time.monotonic() - training.seconds, time.monotonic()
    training.model.train()
    # A step's work grows with its pictures, so pixels tell the time left better than steps.
    pixels = [training.phase(step).size ** 2 for step in range(training.steps)]
    with tqdm(total=sum(pixels), initial=sum(pixels[: training.step]), smoothing=0.02,
              bar_format="{percentage:5.1f}% [{elapsed}, {remaining} left]") as progress:  # fmt: skip
        while training.step < training.steps:
            if training.step == training.cool_down > 0:
                training.save(directory / "before_cool_down.pt")
            progress.update(pixels[training.step])
            means.append(training.take_step().cpu())
            if not means[-1].isfinite().all():
                raise DataError(f"the loss is no longer finite at step {training.step}: {REMEDY}")
            training.seconds = time.monotonic() - started
            ended = training.step % training.per_epoch == 0 or training.step == training.steps
            if ended:
                training.log.append(record(training, quick, *torch.stack(means).mean(dim=0).tolist()))
                progress.write(REPORT.format(**training.log[-1]))
                history.write(training.log, directory)
                means = []
            if ended or time.monotonic() - saved > SAVE_EVERY:
                training.save(directory / "checkpoint.pt")
                saved = time.monotonic()


def record(training, validation, loss, train_top1):
    """One row of the log."""
    size = training.phase(training.step - 1).size
    top1, top5 = accuracy(training.model, validation, size, training.device)
    return {"epoch": training.step / training.per_epoch, "size": size,
            "learning_rate": training.optimizer.param_groups[0]["lr"], "loss": loss, "train_top1": train_top1,
            "top1": top1, "top5": top5, "minutes": training.seconds / 60}  # fmt: skip


def finish(training: Training, validation: Dataset, directory: Path) -> None:
    """Choose the size of the pictures, pack the network, and say what packing cost; sizes.json keeps the figures."""
    state = training.model.state_dict()
    rows = [measure(training, validation, size, "float32") for size in TRY_SIZES]
    torch.save(state, directory / "resnet50.pth")
    size = max(rows, key=lambda row: row["top1"])["size"]
    path = directory / "resnet50.npz"
    counter = "num_batches_tracked"  # batch norm's, which plays no part here
    arrays = {name: tensor.float().cpu().numpy() for name, tensor in state.items() if not name.endswith(counter)}
    pack(arrays, training.recipe["labels"], size, path)
    take_over(training.model, path)
    rows.append(measure(training, validation, size, "int8"))
    (directory / "sizes.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(f"packed: {path}, {path.stat().st_size / 1e6:.1f} MB, for pictures of {size}x{size}")


def measure(training, validation, size, kernels):
    """Return and print the accuracy at a size of the pictures. kernels: how they are stored."""
    top1, top5 = accuracy(training.model, validation, size, training.device)
    print(f"{kernels} kernels, {size}x{size}: top-1 {top1:.2%}, top-5 {top5:.2%}")
    return {"kernels": kernels, "size": size, "top1": top1, "top5": top5}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="PATH",
                        help="tiny-imagenet-200, or a directory of class directories")  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "training" / "run", metavar="DIR",
                        help="for everything; resumed if it is there (default: training/run)")  # fmt: skip
    parser.add_argument("--start", type=Path, metavar="FILE", help="fine-tune this resnet50.pth or packed .npz")
    parser.add_argument("--epochs", type=positive, default=15, help="times through the pictures (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="pictures in a step (default: %(default)s)")
    parser.add_argument("--rate", type=positive, default=0.25, help="highest learning rate (default: %(default)s)")
    parser.add_argument("--decay", type=float, default=1e-4, help="weight decay (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    return parser.parse_args()


def positive(text):
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no finite number above 0")
    return float(text)


def main():
    options = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        pictures, held_out, names = find(options.data)
        if not 2 <= options.batch <= len(pictures):  # batch norm needs two
            raise DataError(f"--batch {options.batch} must be from 2 to {len(pictures)}, the number of pictures")
        options.out.mkdir(parents=True, exist_ok=True)
        dataset, validation = batches.decode(pictures), batches.decode(held_out)
        training = Training(options, dataset, names, device)
        training.resume(options.out)
        run(training, validation, options.out)
        finish(training, validation, options.out)
    except (DataError, ExportError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    main()
