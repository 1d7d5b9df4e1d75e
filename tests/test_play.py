"""The page to play with: what its server answers, and what a user sees of it in a real browser."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from socket import socketpair
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
import skimage.data
from matplotlib import colormaps
from PIL import Image
from selenium.webdriver.support.wait import WebDriverWait

from common.architecture import layers
from common.versions import ROOT, VERSIONS
from extras.play import play, worker

PHOTOGRAPHS = Path(skimage.data.__file__).parent
CAT = PHOTOGRAPHS / "chelsea.png"
NO_PICTURE = "<img src=x>.txt"  # a name that a careless page would take for a picture of its own
ORDINARY = ["v2_vectorized", "v4_no_alloc", "v8_int8"]
SLOWER = [pytest.param(name, marks=pytest.mark.exhaustive) for name in VERSIONS if name not in ORDINARY]
SECONDS = 120  # for a version to be compiled while other tests use the cores


class Server:
    """The program, started as a user starts it; `directory` is all that it has for temporary files."""

    def __init__(self, weights, directory):
        command = [sys.executable, ROOT / "extras" / "play" / "play.py", "--port", "0", "--weights", weights]
        options = {"cwd": directory, "env": os.environ | {"TMPDIR": str(directory)}}
        self.directory = directory
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
        self.url = self.process.stdout.readline().split()[2]

    def request(self, path, picture=None, headers=()):
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=SECONDS)
        connection.request("GET" if picture is None else "POST", path, picture, dict(headers))
        return connection.getresponse()

    def ask(self, version, picture, name):
        """The last line of an answer."""
        return json.loads(self.request(f"/classify/{version}?name={quote(name)}", picture).read().splitlines()[-1])

    def processes(self):
        """Numbers of the processes of versions, youngest last."""
        listing = subprocess.check_output(["ps", "-A", "-ww", "-o", "pid=", "-o", "ppid=", "-o", "args="], text=True)
        rows = [line.split(maxsplit=2) for line in listing.splitlines() if "spawn_main" in line]
        return [int(pid) for pid, parent, _ in rows if int(parent) == self.process.pid]


def eventually(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server(demo_weights, tmp_path_factory):
    running = Server(demo_weights, tmp_path_factory.mktemp("temporary"))
    yield running
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(30) == 0


@pytest.fixture(scope="module")
def said(demo_weights, tmp_path_factory):
    """What infer.py says: {"chelsea.png": [(label, "12.34 %"), ...], ..., NO_PICTURE: message}."""
    directory = tmp_path_factory.mktemp("pictures")
    (directory / NO_PICTURE).write_text("no picture")
    files = [CAT, PHOTOGRAPHS / "coffee.png", NO_PICTURE]
    command = [sys.executable, ROOT / "v6_threads" / "infer.py", *files, "--weights", demo_weights, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=directory)
    found = {Path(record["picture"]).name: record for record in map(json.loads, result.stdout.splitlines())}
    assert len(found) == 3 and (directory / NO_PICTURE).is_file()
    return {name: record.get("error") or shown(record["predictions"]) for name, record in found.items()}


def shown(predictions):
    return [(entry["label"], f"{100 * entry['probability']:.2f} %") for entry in predictions]


class TestVersion:
    @pytest.mark.parametrize("name", ORDINARY + SLOWER)
    def test_every_version_answers_and_shows_its_inside(self, name, small_weights_file, rng):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file, "PNG")
        reports = []
        version = worker.Version(name, small_weights_file, reports.append)
        found = json.loads(json.dumps(version.classify(file.getvalue(), "noise.png")))
        progress = [report["progress"] for report in reports]
        version.done = 0
        image = version.version.image.load_image(io.BytesIO(file.getvalue()), version.manifest["preprocessing"])
        exact = np.array(version.version.ops.softmax(version.model.forward(image)))
        wanted = [{"label": f"class {c}", "probability": float(exact[c])} for c in np.argsort(-exact)[:5]]
        assert found["predictions"] == wanted and found["weights"] == "synthetic for tests, 7 classes"
        times = dict(found["layers"])
        assert times.keys() - {"quantize"} == {layer.name for layer in layers(32)} | {"maxpool", "avgpool"}
        assert all(ms > 0 for ms in times.values())
        shapes = [[8, 8, 64], [8, 8, 256], [4, 4, 512], [2, 2, 1024], [1, 1, 2048]]
        assert [entry["shape"] for entry in found["maps"]] == shapes
        assert all(0 < share < 1 for share in progress)
        assert sum(after < before for before, after in pairwise(progress)) <= 1  # a quick picture runs twice
        assert (name == "v1_loops") == (len(progress) > 3)

    def test_feature_maps_are_the_channels_that_vary_most(self, rng):
        activation = rng.random((5, 4, 20), dtype=np.float32)
        activation[..., 3:11] *= 10
        found = worker.feature_maps("layer9", activation)
        assert (found["stage"], found["shape"], list(found["pictures"])) == ("layer9", (5, 4, 20), [*range(3, 11)])
        viridis = colormaps["viridis"](np.arange(256))[:, :3] * 255
        for channel, address in found["pictures"].items():
            pixels = np.array(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))), dtype=float)
            levels = np.abs(pixels[..., None, :] - viridis).max(-1).argmin(-1)
            plane = activation[..., channel] - activation[..., channel].min()
            assert (
                np.abs(levels - 255 * plane / plane.max()).max() < 16
            )  # a scale of 255; straight lines between five colours

    def test_a_map_of_one_value(self):
        assert len(worker.feature_maps("stem", np.zeros((2, 2, 64), np.float32))["pictures"]) == 8


def test_who_hangs_up_while_waiting_leaves_the_process_warm(small_weights_file):
    workers, (ours, client) = play.Workers(small_weights_file), socketpair()
    workers.kept["v2_vectorized"] = warm = object()
    ours.close()
    with client:
        assert not list(workers.classify("v2_vectorized", b"", "cat", client))
    assert workers.kept == {"v2_vectorized": warm}


def test_the_oldest_process_makes_room(small_weights_file, monkeypatch):
    closed = []

    class FakeWorker:
        def __init__(self, name, weights):
            self.name = name

        def classify(self, picture, file_name, client):
            yield {"finished": True}

        def alive(self):
            return True

        def close(self):
            closed.append(self.name)

    monkeypatch.setattr(play, "Worker", FakeWorker)
    workers, (ours, client) = play.Workers(small_weights_file), socketpair()
    with ours, client:
        for name in VERSIONS[1 : play.KEPT + 3]:
            list(workers.classify(name, b"", "cat", client))
    assert [*workers.kept] == [*VERSIONS[3 : play.KEPT + 3]] and closed == [*VERSIONS[1:3]]


@pytest.mark.parametrize(("local", "status"), [(True, 400), (False, 200)])
def test_other_names_lead_here_only_if_others_may_come(local, status, small_weights_file):
    client = play.create_app(small_weights_file, local).test_client()
    assert client.get("/", headers={"Host": "example.org"}).status_code == status
    assert client.get("/", headers={"Host": "localhost"}).headers["Content-Security-Policy"] == play.POLICY


class TestServer:
    def test_two_at_once(self, server, said):
        with ThreadPoolExecutor() as pool:
            names = ["chelsea.png", "coffee.png", NO_PICTURE]
            pictures = [(PHOTOGRAPHS / name).read_bytes() if name != NO_PICTURE else b"" for name in names]
            answers = list(pool.map(lambda *item: server.ask("v6_threads", *item), pictures, names))
        assert [shown(answer["predictions"]) for answer in answers[:2]] == [said[name] for name in names[:2]]
        assert answers[2]["error"] == said[NO_PICTURE]

    def test_a_client_that_hangs_up_ends_version_1(self, server):
        before = server.processes()
        response = server.request("/classify/v1_loops?name=cat", CAT.read_bytes())
        assert [json.loads(response.readline())["status"] for _ in range(2)] == ["starts", "works"]
        assert len(server.processes()) == len(before) + 1
        response.close()
        eventually(lambda: server.processes() == before)

    def test_a_process_that_dies_is_reported_and_replaced(self, server):
        response = server.request("/classify/v1_loops?name=cat", CAT.read_bytes())
        assert [json.loads(response.readline())["status"] for _ in range(2)] == ["starts", "works"]
        os.kill(server.processes()[-1], signal.SIGKILL)
        assert json.loads(response.read().splitlines()[-1]) == {
            "error": "v1_loops: its process ended with exit code -9"
        }
        assert server.ask("v2_vectorized", CAT.read_bytes(), "cat")["predictions"]
        os.kill(idle := server.processes()[-1], signal.SIGKILL)
        eventually(lambda: idle not in server.processes())
        eventually(lambda: "predictions" in server.ask("v2_vectorized", CAT.read_bytes(), "cat"))

    def test_uploads_are_bounded_and_not_kept(self, server, rng):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (1500, 1500, 3), dtype=np.uint8)).save(file, "PNG")
        assert len(file.getvalue()) > 5e6 and "predictions" in server.ask("v6_threads", file.getvalue(), "noise.png")
        connection = HTTPConnection(urlsplit(server.url).netloc, timeout=SECONDS)
        connection.putrequest("POST", "/classify/v6_threads")
        connection.putheader("Content-Length", str(play.LIMIT + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413
        assert list(server.directory.iterdir()) == []

    @pytest.mark.parametrize(
        ("path", "headers", "status"),
        [
            ("/classify/v9", {}, 404),
            ("/samples/..%2fREADME.md", {}, 404),
            ("/classify/v6_threads", {"Host": "example.org"}, 400),
            ("/classify/v6_threads", {"Sec-Fetch-Site": "cross-site"}, 403),
            ("/", {"Sec-Fetch-Site": "cross-site"}, 200),  # a link to the page is no danger
        ],
    )
    def test_refused(self, server, path, headers, status):
        assert server.request(path, b"" if "classify" in path else None, headers.items()).status == status

    def test_it_listens_on_the_local_interface_only(self, server):
        with pytest.raises(OSError):
            HTTPConnection("127.0.0.2", urlsplit(server.url).port, timeout=10).request("GET", "/")

    @pytest.mark.parametrize("port", [-5, 65536])
    def test_a_port_that_there_is_not(self, port):
        command = [sys.executable, "extras/play/play.py", "--port", str(port)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=SECONDS)
        assert result.returncode == 2 and "--port must be from 0 to 65535" in result.stderr

    @pytest.mark.parametrize("broken", ["weights", "port"])
    def test_it_says_in_one_line_why_it_cannot_start(self, server, demo_weights, broken):
        weights = "missing.safetensors" if broken == "weights" else demo_weights
        port = 0 if broken == "weights" else urlsplit(server.url).port
        command = [sys.executable, "extras/play/play.py", "--weights", weights, "--port", str(port)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=SECONDS)
        assert result.returncode == 1 and not result.stdout
        assert "missing.safetensors" in result.stderr if broken == "weights" else "is in use" in result.stderr


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def wait(browser, condition):
    return WebDriverWait(browser, SECONDS, 0.1).until(lambda _: condition())


@pytest.fixture
def page(browser, server):
    """The page, freshly loaded; nothing may have gone wrong on it, or gone elsewhere, when a test is done."""
    browser.get(server.url)
    yield browser
    assert browser.errors() == [] and browser.requests_elsewhere() == []
    assert list(server.directory.iterdir()) == []


def choose(browser, *names):
    for box in find(browser, "[name=version]"):
        if box.is_selected() != (box.get_attribute("value") in names):
            box.click()


def answer(browser, version):
    """What the page shows of a version's five, once it is there: [(label, "12.34 %"), ...]."""
    rows = wait(browser, lambda: find(browser, f"#{version} .predictions li"))
    return [tuple(span.text for span in row.find_elements("css selector", "span")) for row in rows]


def overflow(browser):
    return browser.execute_script("return document.documentElement.scrollWidth - innerWidth")


class TestPage:
    def test_the_cat_in_two_versions(self, page, said):
        find(page, "[type=file]")[0].send_keys(str(CAT))
        assert answer(page, "v2_vectorized") == answer(page, "v6_threads") == said["chelsea.png"]
        wait(page, lambda: "times as fast as" in find(page, "[role=status]")[0].text)
        assert find(page, "[role=status]")[0].text.startswith("The same five names")
        for version in ("v2_vectorized", "v6_threads"):
            assert find(page, f"#{version} .latency")[0].text.endswith(" ms")
            assert find(page, f"#{version} .weights")[0].text.startswith("weights: demo, 200 classes")
            stages = [caption.text for caption in find(page, f"#{version} figcaption")]
            assert stages == [
                "stem: 20×20×64",
                "layer1: 20×20×256",
                "layer2: 10×10×512",
                "layer3: 5×5×1024",
                "layer4: 3×3×2048",
            ]
            widths = [picture.get_property("naturalWidth") for picture in find(page, f"#{version} .maps img")]
            assert widths == [20] * 16 + [10] * 8 + [5] * 8 + [3] * 8
            assert len(find(page, f"#{version} .layers li")) == 56
        for width in (390, 1280):
            page.resize(width)
            page.execute_script("document.querySelectorAll('details').forEach((part) => (part.open = true))")
            assert overflow(page) <= 0

    def test_no_picture(self, page, said, tmp_path):
        (tmp_path / NO_PICTURE).write_text("no picture")
        find(page, "[type=file]")[0].send_keys(str(tmp_path / NO_PICTURE))
        state = find(page, "#v6_threads .state span")[0]
        assert wait(page, lambda: state.text if "error" in state.get_attribute("class") else None) == said[NO_PICTURE]
        page.resize(390)
        assert overflow(page) <= 0

    def test_too_large_a_file(self, page, tmp_path):
        with (tmp_path / "large.png").open("wb") as file:
            file.truncate(play.LIMIT + 1)
        find(page, "[type=file]")[0].send_keys(str(tmp_path / "large.png"))
        assert find(page, "[role=status]")[0].text == "large.png: more than 32 MiB; refused"
        assert not any("/classify/" in address for address in page.requests())

    def test_two_tabs_at_once(self, page, server, said):
        first = page.current_window_handle
        tabs = {first: "chelsea.png"}
        page.switch_to.new_window("tab")
        tabs[page.current_window_handle] = "coffee.png"
        page.get(server.url)
        for tab, name in tabs.items():
            page.switch_to.window(tab)
            find(page, "[type=file]")[0].send_keys(str(PHOTOGRAPHS / name))
        for tab, name in reversed(tabs.items()):
            page.switch_to.window(tab)
            assert answer(page, "v6_threads") == said[name]
            if tab != first:
                page.close()

    def test_version_1_shows_its_progress_and_is_stopped(self, page, server):
        before = server.processes()
        choose(page, "v1_loops")
        find(page, "[type=file]")[0].send_keys(str(CAT))
        bar = wait(page, lambda: find(page, "progress"))[0]
        wait(page, lambda: 0 < float(bar.get_property("value")) < 1)
        assert "left" in find(page, ".state span")[0].text and len(server.processes()) == len(before) + 1
        find(page, ".state button")[0].click()
        assert wait(page, lambda: find(page, ".state span")[0].text) == "stopped"
        eventually(lambda: server.processes() == before)

    FILE = """const data = new DataTransfer(), cat = await (await fetch('samples/cat.jpg')).blob();
        data.items.add(new File([cat], 'a.jpg'));"""
    # A camera that films a red wall.
    CAMERA = """const wall = Object.assign(document.createElement('canvas'), {width: 320, height: 240});
        setInterval(() => { const c = wall.getContext('2d'); c.fillStyle = 'red'; c.fillRect(0, 0, 320, 240); }, 50);
        navigator.mediaDevices.getUserMedia = async () => wall.captureStream();"""

    @pytest.mark.parametrize("source", ["sample", "drop", "paste", "camera"])
    def test_other_sources(self, page, source):
        choose(page, "v6_threads")
        if source == "sample":
            find(page, ".sample")[0].click()
        elif source == "drop":
            page.execute_script(
                f"(async () => {{ {self.FILE} document.body.dispatchEvent(new DragEvent('drop', "
                "{dataTransfer: data, bubbles: true, cancelable: true})) })()"
            )
        elif source == "paste":
            page.execute_script(
                f"(async () => {{ {self.FILE} document.body.dispatchEvent(new ClipboardEvent('paste', "
                "{clipboardData: data, bubbles: true})) })()"
            )
        else:
            page.execute_script(self.CAMERA)
            find(page, "#camera")[0].click()
            wait(page, lambda: find(page, "#camera")[0].text == "Take the picture")
            find(page, "#camera")[0].click()
        assert len(answer(page, "v6_threads")) == 5
        assert find(page, "#picture img")[0].get_property("naturalWidth") == (320 if source == "camera" else 451)

    def test_without_a_camera(self, page):
        find(page, "#camera")[0].click()
        wait(page, lambda: find(page, "[role=status]")[0].text.startswith("no camera: "))

    def test_no_version(self, page):
        choose(page)
        find(page, ".sample")[0].click()
        wait(page, lambda: find(page, "[role=status]")[0].text == "Choose a version")
