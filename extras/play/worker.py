"""A version in a process of its own: nothing of it touches another's time, and it can be stopped at any moment."""

import base64
import io
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from multiprocessing.connection import wait
from pathlib import Path
from socket import socket

import numpy as np
from PIL import Image

from bench.profile import Trace, step_times
from common.architecture import layers
from common.named_bytes import NamedBytes
from common.versions import load_version

SPAWN = multiprocessing.get_context("spawn")  # a fork would inherit the server's sockets
MAPS = 8  # feature maps shown of each stage: those that vary most, as in article 4
# Every fourth of a colour scale from dark blue to yellow, matplotlib's viridis.
COLOURS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
PALETTE = np.stack([np.interp(np.linspace(0, 4, 256), range(5), colour) for colour in zip(*COLOURS)], axis=1)


class Worker:
    """The parent's handle on a version's process."""

    def __init__(self, name: str, weights: Path):
        self.name = name
        self._connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=serve, args=(theirs, name, weights), daemon=True)
        self._process.start()
        theirs.close()

    def classify(self, picture: bytes, file_name: str, client: socket) -> Iterator[dict]:
        """Yield what the process reports; the last of it has "finished". Ends early if the client hangs up."""
        try:
            self._connection.send((picture, file_name))
            message = {}
            while "finished" not in message:
                if client in wait([self._connection, client]):
                    return
                message = self._connection.recv()
                yield message
        except (EOFError, ConnectionError):
            self._process.join()
            yield {"error": f"{self.name}: its process ended with exit code {self._process.exitcode}"}

    def alive(self) -> bool:
        return self._process.is_alive()

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def serve(connection, name: str, weights: Path) -> None:
    """The process: answers requests until the parent is gone. The version is loaded with the first one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    version = None
    while True:
        try:
            request = connection.recv()
            version = version or Version(name, weights, connection.send)
            connection.send({"status": "works"})
            connection.send(version.classify(*request) | {"finished": True})
        except (EOFError, BrokenPipeError):
            return
        except Exception as error:  # no picture, no weights, no compiler: one line each, and what infer.py says
            connection.send({"error": " ".join(str(error).split()) or repr(error), "finished": True})


class Version:
    """A loaded version. report: called with {"progress": share of the work, "layer": name} in between."""

    def __init__(self, name: str, weights: Path, report: Callable[[dict], None]):
        self.version = load_version(name)
        self.manifest = self.version.weights.read_manifest(weights)
        self.size = self.manifest["preprocessing"]["crop"]
        network = self.version.resnet50
        self.trace = None if hasattr(self.version, "codegen") else Trace(network)  # before the network is built
        if self.trace:
            network.conv2d = self.reporting(network.conv2d, report)
        self.model = network.ResNet50(weights, image_size=self.size)

    def reporting(self, conv2d: Callable, report: Callable) -> Callable:
        """The operator, which says four times a second at most how far the picture is."""
        works = layers(self.size)
        shares = np.array([*accumulate(layer.flops for layer in works)]) / sum(layer.flops for layer in works)
        self.done, last = 0, time.perf_counter()

        def wrapper(*arguments, **options):
            nonlocal last
            result = conv2d(*arguments, **options)
            if time.perf_counter() - last > 0.25:
                last = time.perf_counter()
                report({"progress": shares[self.done], "layer": works[self.done].name})
            self.done += 1
            return result

        return wrapper

    def classify(self, picture: bytes, file_name: str) -> dict:
        """What the page shows of a picture. Raises the version's ImageError."""
        image = self.version.image.load_image(NamedBytes(picture, file_name), self.manifest["preprocessing"])
        maps = []
        logits, seconds, times = self.run(image, lambda *stage: maps.append(feature_maps(*stage)))
        if seconds < 5:  # the first picture warms up; nobody waits for version 1 twice
            logits, seconds, times = self.run(image)
        probabilities = self.version.ops.softmax(logits)
        best = sorted(enumerate(probabilities), key=lambda entry: -entry[1])[:5]
        return {
            "predictions": [{"label": self.manifest["labels"][c], "probability": float(p)} for c, p in best],
            "latency_ms": 1000 * seconds,
            "layers": times,
            "maps": maps[:-1],  # behind the average pool there is nothing to see
            "weights": f"{self.manifest['source']}, {self.manifest['num_classes']} classes",
            "note": self.manifest.get("note", ""),
        }

    def run(self, image, probe=None):
        """Return the logits, the seconds of one picture, and every layer's milliseconds, [[name, ms], ...]."""
        self.done = 0
        if self.trace:
            self.trace.calls.clear()
        start = time.perf_counter()
        logits = self.model.forward(image, probe)
        seconds = time.perf_counter() - start
        times = {}
        for (layer, _), part in (self.trace.take_parts(self.size) if self.trace else step_times(self.model)).items():
            times[layer] = times.get(layer, 0) + 1000 * part
        return logits, seconds, list(times.items())


def feature_maps(stage: str, activation) -> dict:
    """The feature maps of a stage that vary most, each scaled to its own largest number, as addresses of PNGs.

    activation: (height, width, channels) float32.
    """
    if activation.ndim < 3:
        return {}
    found = {}
    for channel in sorted(np.argsort(activation.std(axis=(0, 1)), kind="stable")[-MAPS:].tolist()):
        plane = activation[..., channel] - activation[..., channel].min()
        levels = np.uint8(255 * plane / max(plane.max(), 1e-30))
        with io.BytesIO() as file:
            Image.fromarray(np.uint8(PALETTE)[levels]).save(file, "PNG")
            found[channel] = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"stage": stage, "shape": activation.shape, "pictures": found}
