"""A real browser for the tests of pages: headless Chromium, driven by Selenium through its own chromedriver.

It records what its console says and every address that it asks for, so that a test can assert that a page loads
without an error and that nothing leaves this machine. The fixture `browser` in conftest.py starts it once and wipes it
before each test.
"""

import contextlib
import functools
import http.server
import json
import os
import shutil
import threading
from urllib.parse import urlsplit

from selenium import webdriver

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HERE = {"localhost", "127.0.0.1", "[::1]", "::1"}
# It must not phone home by itself, and a name that is not this machine's cannot even be looked up.
ARGUMENTS = (
    "--headless=new --no-first-run --no-default-browser-check --disable-background-networking --disable-sync "
    "--disable-component-update --disable-extensions --disable-dev-shm-usage --disable-gpu --mute-audio"
)


def find() -> tuple[str, str] | None:
    """Paths of the browser and of chromedriver, or None where one is missing."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    return (program, driver) if program and driver else None


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *_): ...


@contextlib.contextmanager
def serve(directory):
    """Serve a directory on a free port of this machine while the context lasts; gives the address."""
    handler = functools.partial(Handler, directory=directory)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Browser(webdriver.Chrome):
    """Selenium's Chrome with a profile directory of its own, a window of a set size, and a record of what happened."""

    def __init__(self, profile, *arguments: str):
        options = webdriver.ChromeOptions()
        options.binary_location, driver = find()
        for argument in (*ARGUMENTS.split(), f"--user-data-dir={profile}", *arguments):
            options.add_argument(argument)
        options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1")
        if os.geteuid() == 0:  # Chromium's sandbox refuses to run as root
            options.add_argument("--no-sandbox")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        super().__init__(options=options, service=webdriver.ChromeService(executable_path=driver))
        self._console, self._requests = [], []

    def wipe(self) -> None:
        """Forget the page, its storage and all records; a window of 1280x900, light, as at the start."""
        self.execute_cdp_cmd("Page.navigate", {"url": "about:blank"})
        self.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "all"})
        self.resize(1280, 900)
        self.prefer("light")
        self._drain()
        self._console, self._requests = [], []

    def resize(self, width: int, height: int = 900) -> None:
        """Lay pages out for a screen of width x height pixels, less than a desktop window could have."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Tell pages that the reader prefers the colour scheme "light" or "dark"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def _drain(self) -> None:
        self._console += [entry for entry in self.get_log("browser") if entry["level"] == "SEVERE"]
        for entry in self.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requests.append(message["params"]["request"]["url"])
            elif message["method"] == "Network.webSocketCreated":
                self._requests.append(message["params"]["url"])

    def errors(self) -> list[str]:
        """What the console called an error since the test began: failed scripts, missing files, refused requests."""
        self._drain()
        return [entry["message"] for entry in self._console]

    def requests(self) -> list[str]:
        """Every address that pages asked for since the test began, web sockets included."""
        self._drain()
        return list(self._requests)

    def requests_elsewhere(self) -> list[str]:
        """Those of `requests` that would leave this machine."""
        schemes = {"http", "https", "ws", "wss", "ftp"}
        parts = [(url, urlsplit(url)) for url in self.requests()]
        return [url for url, part in parts if part.scheme in schemes and part.hostname not in HERE]
