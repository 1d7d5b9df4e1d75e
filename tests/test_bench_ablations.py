"""Copies of versions with a part changed: each edit applies and changes something, and copies are checked and raced."""

import numpy as np
import pytest

from bench import ablations
from bench.ablations import ABLATIONS, AS_IT_IS, Edit
from bench.inputs import make_inputs
from bench.tables import ablations as table
from common.versions import load_version

EVERY = [(version, text) for version, own in ABLATIONS.items() for text in own]


def program(version):
    """The C code of a loaded version for AVX-512, on any machine."""
    isa = version.compiler.ISAS["avx512"]
    return version.codegen.generate(version.resnet50.Network(224, 10, isa).steps, isa)


@pytest.mark.parametrize("version, text", EVERY)
def test_an_ablation_changes_what_it_says(version, text, small_weights_file, rng, tmp_path):
    """Version 3's copies compute the same in another way; others are other programs, compiled or called otherwise."""
    ablations.edited(version, ABLATIONS[version][text], tmp_path)
    copy, original = load_version(version, tmp_path), load_version(version)
    if version == "v3_preload":
        first, second = (each.resnet50.ResNet50(small_weights_file, 64) for each in (copy, original))
        for _ in range(2):  # what is kept holds the first picture's numbers
            image = rng.standard_normal((64, 64, 3), dtype=np.float32)
            np.testing.assert_array_equal(first.forward(image), second.forward(image))
    elif text.startswith("the compiler"):
        assert copy.compiler.FLAGS != original.compiler.FLAGS
    elif text == "Python calls step by step":
        model, calls = copy.resnet50.ResNet50(small_weights_file, 32, threads=1), []
        model.run = lambda first, last: calls.append((first, last))
        model.forward(rng.standard_normal((32, 32, 3), dtype=np.float32))
        assert calls == [(n, n + 1) for n in range(len(model.steps))]
    else:
        assert program(copy) != program(original)


@pytest.mark.parametrize("old", ["no such text", "vector_at"])
def test_an_edit_must_find_its_text_once(old, tmp_path):
    with pytest.raises(ValueError, match=rf"v5_codegen/ops.py has '{old}' \d+ times"):
        ablations.edited("v5_codegen", [Edit("ops.py", old, "")], tmp_path)


def test_copies_take_turns_with_the_version_as_it_is(small_weights_file, monkeypatch):
    """One that is wrong has no time; the ratios are of the rounds."""
    chosen = {
        "stride 2 is direct": ABLATIONS["v7_winograd"]["stride 2 is direct"],
        "there is no ReLU": [Edit("winograd.py", "{relu_of(name)}", "{name}")],
    }
    monkeypatch.setitem(ABLATIONS, "v7_winograd", chosen)
    entries = ablations.ablations(make_inputs(64, small_weights_file), 1, ["v7_winograd"], rounds=2)
    assert {entry["group"] for entry in entries} == {"ablations, v7_winograd, 1 thread"}
    wrong, base, direct = entries
    assert wrong["name"] == "there is no ReLU" and "off by" in wrong["reason"]
    assert (base["name"], direct["name"]) == (AS_IT_IS, "stride 2 is direct")
    assert base["extra_info"]["version"] == "v7_winograd" and base["stats"]["rounds"] == 2
    found = table({"benchmarks": entries[1:], "failed": entries[:1]}, "v7_winograd")
    assert found.headings == ["`v7_winograd`, but", "1 thread"] and found.rows[0][1].endswith(" ms")
    ratio = sorted(b / a for a, b in zip(base["stats"]["data"], direct["stats"]["data"]))
    assert ratio[0] - 0.01 <= float(found.rows[1][1].split()[0]) <= ratio[1] + 0.01
    assert found.rows[2] == ["there is no ReLU", "–"] and "there is no ReLU" in found.notes[0]


def test_a_version_that_was_not_measured_has_no_table():
    found = table({"benchmarks": [], "failed": []}, "v5_codegen")
    assert not found.rows and found.notes == ["Not measured: `python -m bench ablations v5`."]
