"""Fixtures that all tests share. Every random number follows from one seed, printed at the top of a run;
TEST_SEED=N repeats it."""

import os
import secrets
import signal
import subprocess
import zlib

# Set before NumPy and PyTorch load; pytest-xdist's workers inherit both.
os.environ.setdefault("TEST_SEED", str(secrets.randbelow(2**32)))
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# A shell's background job ignores SIGINT, and so would every program that these tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import numpy as np
import pytest

from common import export_weights
from common.synthetic import synthetic
from common.versions import ROOT
from common.weights_file import IMAGENET_V1, write_weights

SEED = int(os.environ["TEST_SEED"])
hypothesis.settings.register_profile("project", deadline=None, print_blob=True)
hypothesis.settings.load_profile("project")


def pytest_report_header():
    return f"TEST_SEED={SEED}"


@pytest.fixture
def rng(request):
    """A random generator of the test's own."""
    return np.random.default_rng([SEED, zlib.crc32(request.node.nodeid.encode())])


def make(*arguments):
    """Run make as from a shell: what `make test` puts into the environment would change its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], capture_output=True, text=True, cwd=ROOT, env=environment)


def export(path, state, image_size=224):
    """Write a state dict as weights whose pictures have image_size x image_size pixels; return the file's path."""
    labels = [f"class {index}" for index in range(len(state["fc.bias"]))]
    preprocessing = IMAGENET_V1 | {"resize": image_size + 8, "crop": image_size}
    note = "these weights are random numbers; the predictions mean nothing"
    write_weights(path, state, source="synthetic for tests", labels=labels, preprocessing=preprocessing, note=note)
    return path


@pytest.fixture(scope="session")
def state():
    """A state dict of 1000 classes, in torchvision's names and layout."""
    return synthetic(seed=SEED % 1000)


@pytest.fixture(scope="session")
def small_state():
    """A state dict of 7 classes."""
    return synthetic(seed=SEED % 1000 + 1, num_classes=7)


@pytest.fixture(scope="session")
def weights_file(state, tmp_path_factory):
    """Weights of 1000 classes for pictures of 224x224."""
    return export(tmp_path_factory.mktemp("weights") / "1000.safetensors", state)


@pytest.fixture(scope="session")
def small_weights_file(small_state, tmp_path_factory):
    """Weights of 7 classes for pictures of 32x32, which even version 1 classifies in seconds."""
    return export(tmp_path_factory.mktemp("weights") / "7.safetensors", small_state, image_size=32)


@pytest.fixture(scope="session")
def demo_weights(tmp_path_factory):
    """The demo model unpacked, as a newcomer without network gets it."""
    out = tmp_path_factory.mktemp("demo") / "demo.safetensors"
    assert export_weights.main(["demo", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """One headless Chromium for all tests of a process; see tests/browser.py."""
    from tests import browser

    if not browser.find():
        pytest.skip("needs Chromium and its driver: on Debian, apt install chromium chromium-driver")
    driver = browser.Browser(tmp_path_factory.mktemp("browser"))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium):
    """Headless Chromium, wiped: no page, nothing stored, nothing recorded, 1280x900 pixels."""
    chromium.wipe()
    return chromium
