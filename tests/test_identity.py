"""Between neighbouring versions only the files that the step is about may differ."""

from itertools import pairwise

import pytest

from common.versions import ROOT, VERSIONS

# The one list: what each step may change, add or leave out compared with the version before.
MAY_DIFFER = {
    "v2_vectorized": {"README.md", "ops.py", "resnet50.py"},
    "v3_preload": {"README.md", "ops.py", "resnet50.py", "weights.py"},
    "v4_no_alloc": {"README.md", "ops.py", "resnet50.py", "buffers.py"},
    "v5_codegen": {
        "README.md", "ops.py", "resnet50.py", "weights.py", "buffers.py", "infer.py",
        "codegen.py", "compiler.py", "show.py", "sample.c", "winograd.py",
    },
    "v6_threads": {
        "README.md", "ops.py", "resnet50.py", "infer.py", "codegen.py", "threads.py", "sample.c", "winograd.py",
    },
}  # fmt: skip
SHARED = {"README.md", "infer.py", "resnet50.py", "ops.py", "weights.py", "image.py"}


def files(version):
    """{name: content} of a version's directory."""
    paths = (path for path in (ROOT / version).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT / version).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize(("previous", "version"), list(pairwise(VERSIONS)))
def test_only_the_steps_files_differ(previous, version):
    before, after = files(previous), files(version)
    differing = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert differing <= MAY_DIFFER[version]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_has_the_same_files(version):
    assert files(version).keys() >= SHARED


@pytest.mark.parametrize("version", VERSIONS)
def test_the_network_opens_with_the_same_header(version):
    header = (ROOT / version / "resnet50.py").read_text().split('"""')[1]
    entries = [line.split(":")[0] for line in header.splitlines()[2:] if line[:1].strip()]
    assert entries == ["What changed", "Why it helps", "What did not", "Run it"]
    assert f"python {version}/infer.py" in header
