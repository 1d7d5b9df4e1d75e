"""How many labelled pictures are named right, by the small model of weights/demo: what smaller numbers cost.

The race shows it beside the times in int8. An engine that is fast because it saturates would show here.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.inputs import make_inputs
from bench.peers import installed, precision
from bench.race import say
from bench.results import entry, extra_info
from bench.worker import Worker, WorkerError
from common import export_weights
from common.machine import available_cores
from common.versions import VERSIONS, load_version
from common.weights_file import intact
from training.evaluate import check_classes
from training.pictures import find

FLOAT = VERSIONS[5]  # one of those in float32: all give the same logits


def accuracy(data: Path, names: Sequence[str] = ()) -> list[dict]:
    """Run version 6 and all in int8, or those named, on the validation pictures in `data`. Returns what `race` does.

    Each gets the pictures as version 6 reads them, at the size that the model wants. Raises DataError for pictures that
    cannot be used, or of classes that the model does not know.
    """
    names = names or [name for name in (*VERSIONS, *installed()) if name == FLOAT or precision(name) == "int8"]
    _, labelled, classes = find(data)
    with tempfile.TemporaryDirectory() as directory:
        weights = Path(directory, "demo.safetensors")
        export_weights.main(["demo", "--out", str(weights)])
        inputs = make_inputs(check_classes(classes, weights), weights)
        return [measured(name, inputs, labelled, classes) for name in names]


def measured(name, inputs, labelled, classes):
    """Return the entry of one of them."""
    say(f"accuracy of {name}")
    load_image, manifest = load_version(FLOAT).image.load_image, intact(inputs.weights)
    label = {known: index for index, known in enumerate(manifest["labels"])}
    seconds, ranks = [], []
    try:
        with Worker(name, inputs, available_cores()) as worker:
            for batch in (labelled[start : start + 100] for start in range(0, len(labelled), 100)):
                images = [load_image(file, manifest["preprocessing"]) for file, _ in batch]
                times, logits = worker.ask("answers", images)
                right = np.array([label[classes[number]] for _, number in batch])[:, None]
                # Itself counts as one that is not smaller; a tie is no recognition.
                ranks += ((logits >= np.take_along_axis(logits, right, 1)).sum(axis=1) - 1).tolist()
                seconds += times
                if not np.isfinite(logits).all():
                    raise WorkerError("logits that are not finite")
            facts = worker.facts
    except WorkerError as error:
        return {"group": "accuracy", "name": name, "reason": str(error)}
    shares = {"accuracy": np.mean(np.array(ranks) == 0), "top5": np.mean(np.array(ranks) < 5)}
    facts |= {key: float(share) for key, share in shares.items()}
    return entry(name, "accuracy", [float(np.mean(seconds))], extra_info(name, inputs, seconds, **facts))
