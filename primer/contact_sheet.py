"""Run all seven lessons on their sample pictures, and put what they produce on one sheet.

    python primer/contact_sheet.py [--out DIR]

DIR then holds every lesson's pictures and `contact_sheet.png`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import lesson

# A lesson's script and its arguments; --out is where its results go; the pictures are what the sheet shows of them.
LESSONS = [
    ("0_gray/gray.py --stages", "gray.png", {"0  gray": "gray.png"}),
    ("1_rgb/rgb.py --stages", "rgb.png", {"1  hues turned": "rgb.png"}),
    ("2_mean_blur/mean_blur.py --stages", "mean_blur.png", {"2  mean blur": "mean_blur.png"}),
    ("3_gaussian_blur/gaussian_blur.py --stages", "gaussian_blur.png", {"3  Gaussian blur": "gaussian_blur.png"}),
    ("4_canny/canny.py --stages", "canny.png", {"4  Canny's edges": "canny.png"}),
    ("5_otsu/otsu.py --stages", "otsu.png", {"5  Otsu's threshold": "otsu.png"}),
    ("6_mnist/mnist.py train", "mnist", {"6  learning": "mnist/curves.png", "6  its mistakes": "mnist/mistakes.png"}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("primer_out"), metavar="DIR", help="default: %(default)s")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    panels = []
    for command, result, pictures in LESSONS:
        print(f"--- {command}", flush=True)
        script, *arguments = command.split()
        done = subprocess.run([sys.executable, Path(__file__).parent / script, *arguments, "--out", out / result])
        if done.returncode:
            raise ValueError(f"{command} failed; the lessons before it are in {out}")
        panels += [(title, lesson.read_picture(out / name, "RGB")) for title, name in pictures.items()]
    lesson.draw(panels, columns=4, inches=17.6).savefig(out / "contact_sheet.png")
    print(f"wrote {out / 'contact_sheet.png'}")


if __name__ == "__main__":
    lesson.run(main)
