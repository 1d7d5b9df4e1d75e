"""A page to play with: your picture, the versions that you choose, and what they see in it.

    python extras/play/play.py [--weights FILE] [--port 7860] [--host 127.0.0.1]

Pictures come as the bare body of a request and are held in memory while they are worked on: nothing is written.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from multiprocessing.connection import wait
from pathlib import Path
from socket import socket
from threading import Lock

# One BLAS thread, here and in the processes to come: more cores are version 6's idea alone.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[variable] = "1"
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a script, Python looks beside this file only

from flask import Flask, abort, render_template, request, send_from_directory
from werkzeug.serving import make_server

from common.versions import VERSIONS, load_version
from extras.play.worker import Worker

LIMIT = 32 * 2**20  # bytes of a picture
KEPT = 3  # processes that stay for the next picture, a few hundred MB each
SLOW = VERSIONS[0]
SAMPLES = sorted(path.name for path in (ROOT / "samples").glob("*.jpg"))
# The page may load from here only, whatever a file's name tries to smuggle into it.
POLICY = "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"


class Workers:
    """The versions' processes. They take turns, so that no version's time is measured while another works.

    Version 1 takes minutes: it has a fresh process for each picture and nobody waits for it.
    """

    def __init__(self, weights: Path):
        self.weights, self.turn, self.kept = weights, Lock(), {}

    def classify(self, name: str, picture: bytes, file_name: str, client: socket) -> Iterator[dict]:
        """Yield what happens. If the client hangs up, the process is killed."""
        if name != SLOW and self.turn.locked():
            yield {"status": "waits for another picture"}
        with nullcontext() if name == SLOW else self.turn:
            if name != SLOW and wait([client], 0):  # hung up while waiting: the process stays warm
                return
            if not (worker := self.kept.pop(name, None)) or not worker.alive():
                yield {"status": "starts; the first time it compiles, which takes seconds" if name > "v5" else "starts"}
                worker = Worker(name, self.weights)
            message = {}
            try:
                for message in worker.classify(picture, file_name, client):
                    yield message
            finally:
                if "finished" in message and name != SLOW:
                    self.kept[name] = worker
                    worker = self.kept.pop(next(iter(self.kept))) if len(self.kept) > KEPT else None
                if worker:
                    worker.close()


def create_app(weights: Path, local: bool = True) -> Flask:
    """The application. local: answer only to this machine's own names, whatever name leads here."""
    app = Flask(__name__, static_folder="page", template_folder="page")
    app.config.update(MAX_CONTENT_LENGTH=LIMIT, TRUSTED_HOSTS=["127.0.0.1", "localhost"] if local else None)
    workers = Workers(weights)

    @app.before_request
    def refuse_other_sites():
        if request.method == "POST" and request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            abort(403)

    @app.after_request
    def restrict(response):
        response.headers.update({"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})
        return response

    @app.get("/")
    def index():
        return render_template("index.html", versions=VERSIONS, samples=SAMPLES, limit=LIMIT)

    @app.get("/samples/<name>")
    def sample(name):
        return send_from_directory(ROOT / "samples", name)

    @app.post("/classify/<version>")
    def classify(version):
        """The body is the picture. Answers with JSON objects, one a line, as they come to be known."""
        if version not in VERSIONS:
            abort(404)
        client, name = request.environ["werkzeug.socket"], request.args.get("name", "picture")
        found = workers.classify(version, request.get_data(), name, client)
        return app.response_class((json.dumps(message) + "\n" for message in found), mimetype="application/x-ndjson")

    return app


def main() -> int:
    parser = argparse.ArgumentParser(description="A page to play with.")
    default = ROOT / "weights" / "resnet50.safetensors"
    parser.add_argument("--weights", type=Path, default=default, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=7860, help="default: %(default)s; 0 takes any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s, which only this machine can reach")
    arguments = parser.parse_args()
    if not 0 <= arguments.port < 65536:
        parser.error("--port must be from 0 to 65535")
    version = load_version(SLOW)
    try:
        version.weights.read_manifest(arguments.weights)
    except version.weights.WeightsError as error:
        sys.exit(f"error: {error}")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for every request
    app = create_app(arguments.weights.resolve(), local=arguments.host in ("127.0.0.1", "localhost"))
    server = make_server(arguments.host, arguments.port, app, threaded=True)
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    print(f"Play at http://{host}:{server.port} (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
