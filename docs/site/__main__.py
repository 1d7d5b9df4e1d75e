"""Build the site: `make site`, or `python -m docs.site [--out DIRECTORY]`."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

from docs.site import BUILD, NODE, ROOT, SITE


def install() -> None:
    """Install the npm packages that package-lock.json names, unless they are there.

    Raises SystemExit without npm, or if it fails.
    """
    if not shutil.which("npm"):
        sys.exit("error: the site needs npm, of Node.js 20 or newer; on Debian: apt install npm")
    lock = SITE / "package-lock.json"
    installed = NODE / "installed.json"  # a copy of the lock, made last: an npm that is interrupted leaves none
    if installed.is_file() and installed.read_bytes() == lock.read_bytes():
        return
    NODE.mkdir(parents=True, exist_ok=True)
    shutil.copy(SITE / "package.json", NODE)
    shutil.copy(SITE / ".npmrc", NODE)
    shutil.copy(lock, NODE)
    done = subprocess.run(["npm", "ci", "--loglevel=error"], cwd=NODE, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit("error: npm could not install what docs/site/package-lock.json names; the lines above say why")
    shutil.copy(lock, installed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.site", description=__doc__)
    parser.add_argument("--out", type=Path, default=BUILD / "html", help="default: docs/site/.build/html")
    parser.add_argument("--locale", type=Path, default=SITE / "locale", help="a directory for each further language")
    arguments = parser.parse_args()
    install()
    languages = ["en", *sorted(path.name for path in arguments.locale.glob("*") if path.is_dir())]
    settings = [f"site_languages={','.join(languages)}", f"locale_dirs={arguments.locale.resolve()}"]
    for language in languages:
        place = arguments.out if language == "en" else arguments.out / language
        notes, options = place / ".doctrees", [f"-D{setting}" for setting in [*settings, f"language={language}"]]
        command = ["-q", "-W", "--keep-going", "-c", SITE, "-d", notes, *options, ROOT, place]
        if status := build_main([str(part) for part in command]):
            shutil.rmtree(notes, ignore_errors=True)  # or the next build would be silent on what it need not read again
            return status
    print(f"the site: {arguments.out}/index.html; read it with `make serve`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
