"""Print the C code that this version generates: python show.py [LAYER] [--isa NAME] [--image-size N].

LAYER is a step of the network by its name, such as layer1.0.conv2 or maxpool; without one, the whole program is
printed. With --isa caches count as 32 and 512 KB; without, the compiler and the system tell what this machine has.
"""

import argparse
import sys

from codegen import generate
from compiler import ISAS, Compiler, CompilerError
from image import check_image_size
from resnet50 import Network


def main():
    parser = argparse.ArgumentParser(description="Print the C code of the network, or of one layer.")
    parser.add_argument("layer", nargs="?", metavar="LAYER", help="for example layer1.0.conv2; default: all")
    parser.add_argument("--isa", choices=ISAS, help="default: the best that this machine has")
    parser.add_argument("--image-size", type=int, default=224, metavar="N", help="default: %(default)s")
    parser.add_argument("--num-classes", type=int, default=1000, metavar="N", help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        check_image_size(arguments.image_size)
        isa = ISAS[arguments.isa] if arguments.isa else Compiler().isa()
    except (CompilerError, ValueError) as error:
        sys.exit(f"error: {error}")
    steps = Network(arguments.image_size, arguments.num_classes, isa).steps
    shown = [step for step in steps if arguments.layer in (None, step.name)]
    if not shown:
        sys.exit(f"error: no layer {arguments.layer}; there are {', '.join(step.name for step in steps)}")
    print(generate(shown, isa), end="")


if __name__ == "__main__":
    main()
