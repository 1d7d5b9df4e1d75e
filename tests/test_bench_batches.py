"""Batches: what an engine computes is checked picture by picture; who fails is said."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from bench import batches, peers
from bench.inputs import make_inputs
from tests.bench_fakes import fake_inputs


@pytest.fixture
def run(tmp_path, rng, monkeypatch):
    """Returns measured_batches' entries, where an engine's process gives `logits` or fails."""
    inputs = fake_inputs(tmp_path, rng)
    monkeypatch.setattr(peers, "installed", lambda: ["openvino"])

    def measured(change, returncode=0):
        def process(command, **options):
            directory, sizes = command[command.index(str(inputs.weights)) + 1], command[-2:]
            right = np.load(inputs.weights)
            logits = {size: change(np.repeat(right[None], int(size), axis=0)) for size in sizes}
            np.savez(f"{directory}/logits.npz", **logits)
            printed = json.dumps({size: [0.5 / int(size)] * 3 for size in sizes})
            return SimpleNamespace(returncode=returncode, stdout=f"noise\n{printed}\n", stderr="a\nno memory\n")

        monkeypatch.setattr(batches, "run", process)
        return batches.measured_batches(inputs, 2, (1, 4))

    return measured


def test_every_batch_gets_an_entry_of_seconds_a_picture(run):
    found = run(lambda logits: logits)
    assert [(e["name"], e["group"], e["extra_info"]["batch"]) for e in found] == [
        ("openvino, batch of 1", "batches", 1),
        ("openvino, batch of 4", "batches", 4),
    ]
    assert [e["stats"]["median"] for e in found] == [0.5, 0.125]
    assert all(e["extra_info"]["max_abs_error"] < 1e-6 for e in found)


def test_a_wrong_picture_in_a_batch_or_a_failed_engine_has_no_time(run):
    def wrong(logits):
        logits[-1] = logits[-1] + (len(logits) == 4)  # the last of four
        return logits

    good, bad = run(wrong)
    assert good["extra_info"]["batch"] == 1 and "reason" in bad and bad["name"] == "openvino, 4"
    assert run(lambda logits: logits, returncode=1) == [{"group": "batches", "name": "openvino", "reason": "no memory"}]


def test_a_real_engine(small_weights_file):
    pytest.importorskip("onnxruntime", reason="engines are installed by: pip install -r requirements/peers.txt")
    found = batches.measured_batches(make_inputs(32, small_weights_file), 1, (1, 2))
    engines = [engine for engine in batches.ENGINES if engine in peers.installed()]
    assert [e["name"] for e in found] == [f"{engine}, batch of {size}" for engine in engines for size in (1, 2)]
    assert all(e["stats"]["rounds"] == batches.ROUNDS for e in found)
