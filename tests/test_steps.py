"""One idea a step: between neighbouring versions only the step's files differ, and no more lines than its budget."""

import pytest

from common.versions import NOT_COUNTED, ROOT, STEPS, VERSIONS, changed_lines, files

EVERY_VERSION = {"README.md", "infer.py", "resnet50.py", "ops.py", "weights.py", "image.py"}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.after}-{step.version}")
def test_a_step_changes_its_own_files_within_its_budget(step):
    before, after = files(step.after), files(step.version)
    differing = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert differing - NOT_COUNTED <= step.files
    changed = {name: changed_lines(before.get(name, []), after.get(name, [])) for name in differing - NOT_COUNTED}
    assert sum(changed.values()) <= step.budget, changed


def test_lines_added_and_removed_are_counted():
    assert changed_lines(["a", "b", "c"], ["a", "x", "y", "c"]) == 3
    assert changed_lines([], ["+", "-"]) == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_has_the_same_files_and_header(version):
    assert files(version).keys() >= EVERY_VERSION
    header = (ROOT / version / "resnet50.py").read_text().split('"""')[1]
    entries = [line.split(":")[0] for line in header.splitlines()[2:] if line[:1].strip()]
    assert entries == ["What changed", "Why it helps", "What did not", "Run it"]
    assert f"python {version}/infer.py" in header


def test_what_is_no_lesson_is_short():
    """What a version carries to stand alone: its command line, and how it reads pictures and weights."""
    for version in VERSIONS:
        lengths = {name: len(lines) for name, lines in files(version).items()}
        assert lengths["infer.py"] <= 90 and lengths["image.py"] <= 70 and lengths.get("compiler.py", 0) <= 126
        if version in ("v1_loops", "v2_vectorized"):
            assert lengths["infer.py"] + lengths["image.py"] + lengths["weights.py"] <= 220
