"""Whether an output is right. Nothing is timed before it has passed here."""

import numpy as np
from numpy.typing import NDArray

from common import versions

TOLERANCE = 1e-4  # of the largest logit
LOOSER = {"mnn": 1e-3}  # its Winograd convolutions with random weights: 3e-4, which the tables show beside its time
VERSIONS = tuple(name for name in versions.VERSIONS if name != "v8_int8")  # whose bytes are held to accuracy instead


class WrongOutput(Exception):
    """The output differs from the reference; the message says how."""


def check_logits(logits: object, reference: NDArray[np.float64], name: str = "") -> float:
    """Return the largest absolute error of `logits`; raise WrongOutput if it is more than is allowed to `name`.

    logits: what was computed, of any type. reference: (num_classes,), all finite.
    """
    if not isinstance(logits, np.ndarray) or logits.shape != reference.shape or logits.dtype.kind != "f":
        found = f"{logits.dtype} {logits.shape}" if isinstance(logits, np.ndarray) else type(logits).__name__
        raise WrongOutput(f"expected floats of shape {reference.shape}, got {found}")
    if not np.isfinite(logits).all():
        raise WrongOutput(f"{np.count_nonzero(~np.isfinite(logits))} of {logits.size} logits are not finite")
    error = float(np.abs(logits - reference).max())
    allowed = LOOSER.get(name, TOLERANCE) * float(np.abs(reference).max())
    if not error <= allowed:
        raise WrongOutput(f"off by {error:.3g} where {allowed:.3g} is allowed")
    return error
