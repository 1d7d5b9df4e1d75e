"""Run all seven lessons on their sample pictures, and put what they produce on one sheet.

    python primer/contact_sheet.py [--out DIR]

DIR then holds every lesson's pictures and `contact_sheet.png`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

PRIMER = Path(__file__).resolve().parent
CELL = (440, 330)
TITLE = 30
COLUMNS = 4

# What to run with --out, and which of its pictures go on the sheet: (script, arguments, --out, {title: picture}).
LESSONS = [
    ("0_gray/gray.py", ["--stages"], "gray.png", {"0  gray": "gray.png"}),
    ("1_rgb/rgb.py", ["--stages"], "rgb.png", {"1  hues turned": "rgb.png"}),
    ("2_mean_blur/mean_blur.py", ["--stages"], "mean_blur.png", {"2  mean blur": "mean_blur.png"}),
    ("3_gaussian_blur/gaussian_blur.py", ["--stages"], "gaussian_blur.png", {"3  Gaussian blur": "gaussian_blur.png"}),
    ("4_canny/canny.py", ["--stages"], "canny.png", {"4  Canny's edges": "canny.png"}),
    ("5_otsu/otsu.py", ["--stages"], "otsu.png", {"5  Otsu's threshold": "otsu.png"}),
    ("6_mnist/mnist.py", ["train"], "mnist",
     {"6  digits: loss and accuracy": "mnist/curves.png", "6  digits: its mistakes": "mnist/mistakes.png"}),
]


def run_lessons(out):
    """Run each lesson with its results in `out`; stop at the first that fails, which says why itself."""
    for script, arguments, result, _ in LESSONS:
        print(f"--- {script}", flush=True)
        done = subprocess.run([sys.executable, str(PRIMER / script), *arguments, "--out", str(out / result)])
        if done.returncode:
            sys.exit(f"contact_sheet.py: {script} failed; the lessons before it are in {out}")


def contact_sheet(pictures):
    """One picture of all: `pictures` maps titles to files, each shrunk or enlarged to fit its cell."""
    rows = -(-len(pictures) // COLUMNS)
    width, height = CELL[0], CELL[1] + TITLE
    sheet = Image.new("RGB", (COLUMNS * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=18)
    for i, (title, path) in enumerate(pictures.items()):
        left, top = i % COLUMNS * width, i // COLUMNS * height
        draw.text((left + width / 2, top + TITLE / 2), title, "black", font, anchor="mm")
        with Image.open(path) as image:
            fitted = ImageOps.contain(image.convert("RGB"), (CELL[0] - 10, CELL[1] - 10))
        sheet.paste(fitted, (left + (width - fitted.width) // 2, top + TITLE + (CELL[1] - 10 - fitted.height) // 2))
    return sheet


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("primer_out"), metavar="DIR", help="default: %(default)s")
    out = parser.parse_args().out
    try:
        out.mkdir(parents=True, exist_ok=True)
        run_lessons(out)
        sheet = contact_sheet({title: out / name for *_, shown in LESSONS for title, name in shown.items()})
        sheet.save(out / "contact_sheet.png")
    except OSError as error:
        sys.exit(f"contact_sheet.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"wrote {out / 'contact_sheet.png'}")


if __name__ == "__main__":
    main()
