"""Load one version's modules without letting them meet another version's.

Every version imports its neighbours as plain siblings (`from ops import conv2d`), so all six use the
same module names. Loading one therefore means: put its directory first on `sys.path`, import its
modules, and forget the names again. The module objects live on in the namespace that is returned.
"""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("v1_loops", "v2_vectorized", "v3_preload", "v4_no_alloc", "v5_codegen", "v6_threads")
DIRECT = {"v5_direct": "v5_codegen", "v6_direct": "v6_threads"}  # versions as contenders without Winograd's convolution


def load_version(name, root=ROOT):
    """Return a namespace with one attribute per module of the directory `root / name`.

    Each call imports afresh: two calls give two independent sets of modules. A name of DIRECT means its version.
    Raises ValueError if there is no such version.
    """
    directory = Path(root) / DIRECT.get(name, name)
    if not (directory / "resnet50.py").is_file():
        raise ValueError(f"no version in {directory}; the versions are {', '.join(VERSIONS)}")
    names = sorted(path.stem for path in directory.glob("*.py"))
    hidden = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        return SimpleNamespace(name=name, directory=directory, **{n: importlib.import_module(n) for n in names})
    finally:
        sys.path.remove(str(directory))
        for module in names:
            sys.modules.pop(module, None)
        sys.modules.update(hidden)
