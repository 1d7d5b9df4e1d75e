"""torchvision's pretrained weights: fetched once, checked, and read without PyTorch."""

import hashlib
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.checkpoint import checkpoint
from common.weights_file import IMAGENET_V1, ExportError

CLASSES = Path(__file__).with_name("imagenet_classes.txt")
HOST = "https://download.pytorch.org/models/"
TIMEOUT = 9  # seconds without an answer, or later without a byte, before a download counts as failed


class Release(NamedTuple):
    """One training of torchvision's ResNet-50: its file, and what pictures are resized to."""

    file: str
    sha256: str
    resize: int


RELEASES = {
    "IMAGENET1K_V2": Release(
        "resnet50-11ad3fa6.pth", "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca", 232
    ),
    "IMAGENET1K_V1": Release(
        "resnet50-0676ba61.pth", "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a", 256
    ),
}


def pretrained(tag: str, url: str | None = None) -> tuple[dict[str, NDArray[np.float32]], list[str], dict[str, Any]]:
    """Return (tensors, labels, preprocessing) of one of RELEASES.

    url: a mirror's address of its file, or a path; else it comes from the cache or PyTorch's host. Raises ExportError.
    """
    release = RELEASES[tag]
    file = fetch(release, url or HOST + release.file)
    return checkpoint(file), CLASSES.read_text("utf-8").splitlines(), IMAGENET_V1 | {"resize": release.resize}


def fetch(release: Release, url: str) -> Path:
    """Return the path of a release's file, whose SHA-256 is the right one. Raises ExportError."""
    if "://" not in url:
        try:
            with open(url, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ExportError(f"cannot read {url}: {error.strerror}") from None
        if found != release.sha256:
            raise ExportError(f"{url} is not {release.file}: its SHA-256 is {found}, not {release.sha256}")
        return Path(url)
    try:
        import pooch
    except ImportError as error:
        raise ExportError(f"{error}: pip install -r requirements/weights.txt") from None
    pooch.get_logger().setLevel("WARNING")
    cache = cache_directory()
    try:
        return Path(pooch.retrieve(url, f"sha256:{release.sha256}", release.file, cache, downloader=download))
    except OSError as error:  # requests' are OSErrors too
        reason = _cause(error)
    except ValueError:
        reason = f"what came has another SHA-256 than {release.file}"
    mend = f"download it elsewhere and save it as {cache / release.file}, or name a mirror or a file: RESNET50_URL=..."
    raise ExportError(f"cannot fetch {url} ({reason}); {mend}")


def cache_directory() -> Path:
    """Return PyTorch's own cache, so that who has its weights need not fetch them again."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TORCH_HOME") or Path(home, "torch")) / "hub" / "checkpoints"


def download(url: str, path: str, _pooch: Any) -> None:
    """Write what `url` serves to `path`, and show how far it is. Raises OSError."""
    import requests
    from tqdm import tqdm

    print(f"fetching {url}; Ctrl-C stops it", file=sys.stderr)
    response = _within(TIMEOUT, lambda: requests.get(url, stream=True, timeout=TIMEOUT))
    response.raise_for_status()
    size = int(response.headers.get("Content-Length", 0)) or None
    with open(path, "wb") as file, tqdm(total=size, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        for piece in response.iter_content(1 << 16):
            file.write(piece)
            bar.update(len(piece))


def _within(seconds, call):
    """Return call(), or raise TimeoutError. Looking up a host, and trying its addresses, has no limit of its own."""
    results = queue.SimpleQueue()

    def run():
        try:
            results.put((call(), None))
        except Exception as error:
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds} seconds") from None
    if error:
        raise error
    return result


def _cause(error):
    """Return in a few words what lies below an exception of requests: they are told at length, one inside the other."""
    while inner := next((e for e in (getattr(error, "reason", 0), *error.args) if isinstance(e, Exception)), None):
        error = inner
    if getattr(error, "filename", None):
        return f"{error.filename}: {error.strerror}"
    return str(error).partition(" for url")[0].rpartition(": ")[2] or type(error).__name__
