"""Build the site: `make site`, or `python -m docs.site [--out DIRECTORY]`."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

from docs.site import BUILD, NODE, ROOT, SITE, languages


def install() -> None:
    """Install the npm packages that package-lock.json names, unless they are there. Raises SystemExit without npm."""
    if not shutil.which("npm"):
        sys.exit("error: the site needs npm, of Node.js 20 or newer; on Debian: apt install npm")
    lock = SITE / "package-lock.json"
    installed = NODE / lock.name
    if installed.is_file() and installed.read_bytes() == lock.read_bytes() and (NODE / "node_modules").is_dir():
        return
    NODE.mkdir(parents=True, exist_ok=True)
    shutil.copy(SITE / "package.json", NODE)
    shutil.copy(SITE / ".npmrc", NODE)
    shutil.copy(lock, NODE)
    done = subprocess.run(["npm", "ci", "--loglevel=error"], cwd=NODE, stdout=subprocess.DEVNULL)
    if done.returncode:
        installed.unlink()
        sys.exit("error: npm could not install what docs/site/package-lock.json names; the lines above say why")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.site", description=__doc__)
    parser.add_argument("--out", type=Path, default=BUILD / "html", help="default: docs/site/.build/html")
    out = parser.parse_args().out
    install()
    for language in languages():
        place = out if language == "en" else out / language
        notes = ["-d", str(place / ".doctrees"), "-D", f"language={language}"]
        if status := build_main(["-q", "-W", "--keep-going", "-c", str(SITE), *notes, str(ROOT), str(place)]):
            shutil.rmtree(place / ".doctrees")  # or the next build would keep silent on what it need not read again
            return status
    print(f"the site: {out}/index.html; read it with `make serve`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
