"""AMX, an instruction set of Intel's servers: how a register tile of ops.py looks in it, as C text.

AMX has eight registers, called tiles, too, of up to 16 rows of 64 bytes. `tile_dot` (dot.h) multiplies two of them like
matrices: 16 pixels of 64 input channels by these channels' weights for 16 output channels, 16384 products. Of the eight

    0 and 1  hold the sums of the first half of the pixels, for one vector of output channels each
    2 and 3  those of the second half
    4 and 5  hold activations, one half of the pixels each; the pixels of a half lie at equal distances in memory
    6 and 7  hold weights, of one vector of output channels each

so that each of the four that are loaded is used twice.
"""

import ctypes

GROUP = 64  # channels that lie side by side in memory: a row of activations
ROWS = 16  # pixels in a half, at most
LANES = 16  # sums in a row
VECTORS = 2  # of output channels


def allowed() -> bool:
    """Ask Linux for the tiles, 8 KiB of registers that threads have only if their process asks for them."""
    return ctypes.CDLL(None).syscall(158, 0x1023, 18) == 0  # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)


def block_shape(pixels: int, height: int, width: int) -> tuple[int, int, int]:
    """Return (rows, columns, register tiles) of blocks: two rows, half of the pixels each, or one row."""
    return (2, max(pixels // 2, 1), 1) if height > 1 else (1, pixels, 1)


def configured(body, rows, columns, lanes):
    """Put `body` between the lines that give the tiles their shapes and take them away.

    rows, columns: of the largest block. lanes: input channels that are multiplied at once.
    """
    return [f"tile_shapes({-(-rows * columns // 2)}, {lanes});", *body, "tile_release();"]


def halves(pixels):
    """Return the pixels, [(row, column), ...], in two lists; in one if there is one pixel."""
    middle = -(-len(pixels) // 2)
    return [half for half in (pixels[:middle], pixels[middle:]) if len(half)]


def sums(pixels):
    """Return [(number of a tile of sums, its half of the pixels, its vector of output channels), ...]."""
    return [(VECTORS * h + v, h, v) for h in range(len(halves(pixels))) for v in range(VECTORS)]


def names(pixels):
    """Return the names of each pixel's sums, once they are in memory."""
    places = [(h, n) for h, half in enumerate(halves(pixels)) for n in range(len(half))]
    return [[f"sums[{h}][{n}][{v}]" for v in range(VECTORS)] for h, n in places]


def begin(pixels):
    """Let sums begin in their bias: rows that lie at a distance of 0 are the same."""
    loads = [f"tile_load({tile}, factors + {LANES * v}, 0);" for tile, _, v in sums(pixels)]
    return [f"vector sums[2][{ROWS}][{VECTORS}];", *loads]


def dots(x, stride, pixels):
    """Multiply a group of input channels."""
    starts = [stride * (half[0][0] * x.row + half[0][1] * x.lanes) for half in halves(pixels)]
    lines = [f"tile_load({4 + h}, c + {start}, {stride * x.lanes});" for h, start in enumerate(starts)]
    lines += [f"tile_load({6 + v}, w + {4 * LANES * v}, {4 * LANES * VECTORS});" for v in range(VECTORS)]
    return lines + [f"tile_dot({tile}, {4 + h}, {6 + v});" for tile, h, v in sums(pixels)]


def end(pixels):
    """Move the sums to memory, since no instruction moves them to vectors."""
    return [f"tile_store({tile}, &sums[{h}][0][{v}], {4 * LANES * VECTORS});" for tile, h, v in sums(pixels)]
