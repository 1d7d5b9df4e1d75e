"""Whether an output is right. Nothing is timed before it has passed here."""

import numpy as np
from numpy.typing import NDArray

from bench.inputs import Inputs
from bench.peers import precision
from bench.worker import Worker
from common.versions import VERSIONS

# Of the largest logit. Bytes make random weights' logits inexact by up to 0.35, trained ones' by less. MNN's Winograd
# convolutions are off by 3e-4, which the tables show beside its time.
TOLERANCE = {"float32": 1e-4, "int8": 0.5, "mnn": 1e-3}
CORRELATION = 0.8  # of bytes' logits with the right ones; 0.93 is the least that was seen
FEW = 100  # classes; with fewer, chance may make all right logits small and alike, and neither limit means anything
PLAIN = "generic128"  # version 8's plain C, which defines what is right
known_plain: dict[tuple, NDArray[np.float32]] = {}


class WrongOutput(Exception):
    """The output differs from the reference; the message says how."""


def check_output(name: str, logits: object, inputs: Inputs) -> float:
    """Return the largest absolute error of what the version or engine `name` gave; raise WrongOutput if it is wrong.

    float32: nearly the float64 reference. int8: a version of ours gives to the last bit what its plain C gives on one
    thread; an engine, and a version that has more than a FEW classes, is near the reference.
    """
    tolerance = TOLERANCE.get(name, TOLERANCE[precision(name)])
    if precision(name) == "float32":
        return check_logits(logits, inputs.logits, tolerance)
    plain = plain_logits(name, inputs) if name in VERSIONS else None
    few = plain is not None and len(inputs.logits) < FEW
    error = check_logits(logits, inputs.logits, np.inf if few else tolerance)
    check_bytes(logits, inputs.logits, plain)
    return error


def check_logits(logits: object, reference: NDArray[np.float64], tolerance: float = TOLERANCE["float32"]) -> float:
    """Return the largest absolute error of `logits`; raise WrongOutput if it is more than `tolerance` allows.

    logits: what was computed, of any type. reference: (num_classes,), all finite.
    """
    if not isinstance(logits, np.ndarray) or logits.shape != reference.shape or logits.dtype.kind != "f":
        found = f"{logits.dtype} {logits.shape}" if isinstance(logits, np.ndarray) else type(logits).__name__
        raise WrongOutput(f"expected floats of shape {reference.shape}, got {found}")
    if not np.isfinite(logits).all():
        raise WrongOutput(f"{np.count_nonzero(~np.isfinite(logits))} of {logits.size} logits are not finite")
    error = float(np.abs(logits - reference).max())
    allowed = tolerance * float(np.abs(reference).max())
    if not error <= allowed:
        raise WrongOutput(f"off by {error:.3g} where {allowed:.3g} is allowed")
    return error


def check_bytes(logits: NDArray, reference: NDArray[np.float64], plain: NDArray | None = None) -> None:
    """Raise WrongOutput unless `logits`, if many, correlate with `reference`, and equal the plain ones, if given."""
    if not np.ptp(logits):
        raise WrongOutput("all logits are equal")
    found = np.corrcoef(logits, reference)[0, 1]
    if len(reference) >= FEW and not found >= CORRELATION:
        raise WrongOutput(f"the correlation with the right logits is {found:.2f} where {CORRELATION} is required")
    if plain is not None and not np.array_equal(logits, plain):
        raise WrongOutput(f"{np.count_nonzero(logits != plain)} logits differ from those of plain C")


def plain_logits(name: str, inputs: Inputs) -> NDArray[np.float32]:
    """What the version gives in plain C on one thread; computed once for each weights file and picture size."""
    key = (name, inputs.weights, inputs.size)
    if key not in known_plain:
        with Worker(name, inputs, isa=PLAIN) as worker:
            known_plain[key] = worker.ask("pictures", 1, 0.0)[1]
    return known_plain[key]
