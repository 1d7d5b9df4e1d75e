"""Train a ResNet-50 on small pictures, and pack it small enough to ship.

    python weights/demo/train.py --data tiny-imagenet-200
    python weights/demo/train.py --data my_pictures --out weights/demo/mine --epochs 30
    python weights/demo/train.py --data my_pictures --out weights/demo/tuned --start mine/resnet50.npz --rate 0.05

--out gets a checkpoint, from which the same command goes on after a stop; log.csv and log.svg; at the end
resnet50.pth, a state dict, and resnet50.npz, the packed model, which `common/export_weights.py demo` unpacks.

The recipe: SGD with Nesterov momentum, label smoothing (Szegedy et al. 2016, section 7), and pictures that grow while
the learning rate falls (Howard, "Training ImageNet in 3 hours for 25 minutes", 2018). The learning rate rises, stays,
and falls, each on a line (Haegele et al., "Scaling laws and compute-optimal training beyond fixed training durations",
2024): until it falls, nothing depends on --epochs, so that a training can be made longer afterwards.

--start fine-tunes a network that is trained already: the learning rate falls from the first step on, pictures have
their final size, and they are changed more (batches.vary): things are seen from nearer, and in other light.
"""

import argparse
import hashlib
import json
import math
import os
import pickle
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a script, Python looks beside this file only

import history  # noqa: E402
from batches import Dataset, augment, decode, generator, prepare, shuffled, vary  # noqa: E402
from common.errors import ExportError  # noqa: E402
from common.packed import pack, unpack  # noqa: E402
from common.pretrained import import_torchvision  # noqa: E402
from gemm_conv import use_gemm  # noqa: E402
from pictures import DataError, find  # noqa: E402

WARM_UP = 1.0  # epochs in which the learning rate rises
COOL_DOWN = 0.55  # share of all steps after which it falls
SIZES = ((0.65, 32), (0.88, 48), (1.0, 64))  # until this share of all steps, pictures of this size
TRY_SIZES = (56, 64, 72)  # the best size to recognise at need not be the one trained on
SMOOTHING = 0.1  # of the labels
COUNTER = "num_batches_tracked"  # batch norm's, which plays no part here
SAVE_EVERY = 180  # seconds between checkpoints
QUICK = 2000  # validation pictures after each epoch, or a few more; all of them at the end


class Training:
    """A network, its optimiser, and how far they have come."""

    def __init__(self, arguments, dataset, labels, device):
        torch.manual_seed(arguments.seed)
        model = import_torchvision().models.resnet50(num_classes=len(labels), zero_init_residual=True)
        if device.type == "cpu":
            use_gemm(model)
        self.model = model.to(device, memory_format=torch.channels_last)
        kernels = [p for p in model.parameters() if p.ndim > 1]  # biases and batch norm do not decay
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": kernels, "weight_decay": arguments.decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True, fused=True)
        self.recipe = {"batch": arguments.batch, "rate": arguments.rate, "decay": arguments.decay,
                       "seed": arguments.seed, "pictures": len(dataset.labels), "labels": labels}  # fmt: skip
        self.tuning = arguments.start is not None
        if self.tuning:
            take_over(self.model, arguments.start)
            self.recipe["start"] = hashlib.sha256(arguments.start.read_bytes()).hexdigest()
        self.dataset, self.device = dataset, device
        self.per_epoch = len(dataset.labels) // arguments.batch
        self.steps = math.ceil(arguments.epochs * self.per_epoch)
        self.cool_down = 0 if self.tuning else math.floor(COOL_DOWN * self.steps)
        self.step, self.seconds, self.log = 0, 0.0, []

    def take_step(self):
        """Learn from one batch. Return its (loss, share of pictures recognised) as a tensor."""
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

    def batch(self):
        """The pictures and labels of this step: the same in a resumed training."""
        epoch, number = divmod(self.step, self.per_epoch)
        chosen = shuffled(len(self.dataset.labels), self.recipe["batch"], epoch, self.recipe["seed"])[number]
        change = vary if self.tuning else augment
        pixels = change(self.dataset.pixels[chosen], generator(self.recipe["seed"] + 1, self.step))
        return prepare(pixels, self.size(), self.device), self.dataset.labels[chosen].to(self.device)

    def learning_rate(self):
        rising = 1.0 if self.tuning else self.step / (WARM_UP * self.per_epoch)
        falling = (self.steps - self.step) / (self.steps - self.cool_down)
        return self.recipe["rate"] * min(rising, 1.0, falling)

    def size(self, step=None):
        """Height and width of the pictures at a step, by default the next."""
        share = 1.0 if self.tuning else (self.step if step is None else step) / self.steps
        return next((size for end, size in SIZES if share < end), SIZES[-1][1])

    def save(self, path):
        """Write a checkpoint, whole or not at all."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "recipe": self.recipe,
                 "step": self.step, "steps": self.steps, "cool_down": self.cool_down, "seconds": self.seconds,
                 "log": self.log}  # fmt: skip
        torch.save(state, f"{path}.unfinished")
        os.replace(f"{path}.unfinished", path)

    def resume(self, directory):
        """Go on from the last checkpoint there that leads to `steps` steps. Raises DataError if none does."""
        for path in (directory / "checkpoint.pt", directory / "before_cool_down.pt"):
            if not path.exists():
                continue
            state = load(path, self.device)
            if state["recipe"] != self.recipe:
                raise DataError(f"{path} is of a training with other pictures or options; choose another --out")
            if state["steps"] == self.steps or state["step"] <= min(state["cool_down"], self.cool_down):
                self.model.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]
                return
        if (directory / "checkpoint.pt").exists():
            raise DataError(f"{directory} is too far on for other --epochs than it began with; choose another --out")


def take_over(model, path):
    """Take over the weights in a state dict or packed file, but for the classifier's if it has other classes.

    Raises DataError, or ExportError for a packed file.
    """
    tensors = unpacked(path) if path.suffix == ".npz" else load(path, "cpu", "name another file")
    own = model.state_dict()
    learned = {name for name in own if not name.endswith(COUNTER)}
    if not isinstance(tensors, dict) or not learned <= tensors.keys() <= own.keys():
        raise DataError(f"{path} holds no ResNet-50")
    if tensors["fc.bias"].shape != own["fc.bias"].shape:
        tensors |= {name: own[name] for name in ("fc.weight", "fc.bias")}
    try:
        model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise DataError(f"{path} does not fit: {' '.join(str(error).split())}") from None


def unpacked(path):
    """The tensors of a packed network. Raises ExportError."""
    return {name: torch.from_numpy(array) for name, array in unpack(path)[0].items()}


def load(path, device, remedy="delete it"):
    """Return what a file of torch.save holds. Raises DataError."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise DataError(f"there is no {path}") from None
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}): {remedy}") from None


def has_bfloat16(device):
    """Whether the device multiplies bfloat16 faster than float32."""
    able = torch.cpu.get_capabilities()
    return device.type == "cuda" or able.get("amx_bf16", False) or able.get("avx512_bf16", False)


@torch.no_grad()
def accuracy(model, dataset, size, device, batch=200):
    """Return (top-1, top-5): the share of pictures whose class is the likeliest, and among the five likeliest."""
    model.eval()
    right = torch.zeros(2, dtype=torch.float64)
    for pixels, labels in zip(dataset.pixels.split(batch), dataset.labels.split(batch)):
        logits = model(prepare(pixels, size, device))
        found = logits.topk(min(5, logits.shape[1])).indices == labels.to(device)[:, None]
        right += torch.stack([found[:, 0].sum(), found.sum()]).cpu()
    model.train()
    return (right / len(dataset.labels)).tolist()


def run(training, validation, directory):
    """Take the steps that are left; log, draw and save on the way."""
    every = max(1, len(validation.labels) // QUICK)  # they may lie sorted by class
    quick = Dataset(validation.pixels[::every], validation.labels[::every])
    sums, count, started, saved = torch.zeros(2), 0, time.monotonic() - training.seconds, time.monotonic()
    training.model.train()
    # A step's work grows with its pictures, so pixels tell the time left better than steps.
    pixels = [training.recipe["batch"] * training.size(step) ** 2 / 1e6 for step in range(training.steps)]
    with tqdm(total=sum(pixels), initial=sum(pixels[: training.step]), unit="Mpx", smoothing=0.02, mininterval=1,
              bar_format="{percentage:5.1f}% [{elapsed}, {remaining} left] {desc}") as progress:  # fmt: skip
        while training.step < training.steps:
            if training.step == training.cool_down:
                training.save(directory / "before_cool_down.pt")
            progress.update(pixels[training.step])
            means = training.take_step().cpu()
            if not means.isfinite().all():
                raise DataError(f"the loss is no number any more at step {training.step}: lower --rate")
            sums += means
            count += 1
            training.seconds = time.monotonic() - started
            ended = training.step % training.per_epoch == 0 or training.step == training.steps
            if ended:
                training.log.append(record(training, quick, sums / count))
                history.write(training.log, directory)
                sums, count = torch.zeros(2), 0
            if ended or time.monotonic() - saved > SAVE_EVERY:
                training.save(directory / "checkpoint.pt")
                saved = time.monotonic()
            progress.set_description_str(describe(training))


def record(training, validation, means):
    """One row of the log."""
    size = training.size(training.step - 1)
    loss, train_top1 = means.tolist()
    top1, top5 = accuracy(training.model, validation, size, training.device)
    return {"epoch": training.step / training.per_epoch, "size": size,
            "learning_rate": training.optimizer.param_groups[0]["lr"], "loss": loss, "train_top1": train_top1,
            "top1": top1, "top5": top5, "minutes": training.seconds / 60}  # fmt: skip


def describe(training):
    text = f"epoch {training.step / training.per_epoch:.2f} of {training.steps / training.per_epoch:g}"
    if training.log:
        text += "; after the last: loss {loss:.3f}, top-1 {top1:.1%}, top-5 {top5:.1%}".format(**training.log[-1])
    return text


def finish(training, validation, labels, directory):
    """Choose the size of the pictures, pack the network, and say what packing cost; sizes.json keeps the figures."""
    torch.save(training.model.state_dict(), directory / "resnet50.pth")
    rows = [measure(training, validation, size, "float32") for size in TRY_SIZES]
    size = max(rows, key=lambda row: row["top1"])["size"]
    path = directory / "resnet50.npz"
    pack({name: tensor.float().cpu().contiguous().numpy() for name, tensor in training.model.state_dict().items()
          if not name.endswith(COUNTER)}, labels, size, path)  # fmt: skip
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
                        help="tiny-imagenet-200, or a directory of class directories")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "run", metavar="DIR",
                        help="for everything; resumed if it is there (default: weights/demo/run)")
    parser.add_argument("--start", type=Path, metavar="FILE",
                        help="fine-tune the network in this resnet50.pth or packed .npz")
    parser.add_argument("--epochs", type=float, default=15, help="times through the pictures (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="pictures in a step (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0.25, help="highest learning rate (default: %(default)s)")
    parser.add_argument("--decay", type=float, default=1e-4, help="weight decay (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    arguments = parser.parse_args()
    for name in ("epochs", "batch", "rate"):
        if not getattr(arguments, name) > 0:
            parser.error(f"--{name} must be above 0")
    return arguments


def main():
    arguments = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        pictures, held_out, labels = find(arguments.data)
        if len(pictures.labels) < arguments.batch:
            raise DataError(f"{arguments.data}: {len(pictures.labels)} pictures do not fill one batch; lower --batch")
        dataset, validation = decode(pictures), decode(held_out)
        training = Training(arguments, dataset, labels, device)
        arguments.out.mkdir(parents=True, exist_ok=True)
        training.resume(arguments.out)
        run(training, validation, arguments.out)
        finish(training, validation, labels, arguments.out)
    except (DataError, ExportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from the last checkpoint")
