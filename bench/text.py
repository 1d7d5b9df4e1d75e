"""Numbers as text, with the digits that are known, and tables of texts."""

from collections.abc import Sequence
from math import floor, log10
from statistics import median, quantiles
from typing import NamedTuple

from tabulate import tabulate

from bench.quantities import ratios

MISSING = "–"


class Table(NamedTuple):
    """Rows of texts under headings, and sentences below them."""

    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()

    def text(self, style: str) -> str:
        """style: one of tabulate's, "pipe" for Markdown."""
        alignment = ("left", *["right"] * (len(self.headings) - 1))
        table = tabulate(self.rows, self.headings, tablefmt=style, disable_numparse=True, colalign=alignment)
        return "\n\n".join([table] * bool(self.rows) + list(self.notes))


def digits(value: float | None, unit: float = 1, after: str = "") -> str:
    """Three of them: more is not known of a time."""
    if not value:
        return MISSING if value is None else "0"
    rounded = float(f"{value / unit:.3g}")
    whole = rounded >= 100 or (unit == 1 and isinstance(value, int))
    return (f"{rounded:,.0f}" if whole else f"{rounded:#.3g}") + after


def known(value: float, spread: float) -> tuple[str, str]:
    """Both, rounded to the spread's first digit, or to its second if the first is 1."""
    if not spread:
        return digits(value), "0"
    spread = float(f"{spread:.2g}")  # 0.996 is 1.0, which begins with 1
    place = floor(log10(spread))
    places = -place + (spread / 10**place < 2)
    return tuple(f"{round(number, places):,.{max(places, 0)}f}" for number in (value, spread))


def two_digits(value: float) -> str:
    """Of what was measured once."""
    return f"{float(f'{value:.2g}'):,g}"


def milliseconds(row: dict) -> str:
    """The median and half the distance between the quartiles."""
    if row["rounds"] == 1:
        return two_digits(1e3 * row["median"]) + " (one run)"
    return " ± ".join(known(1e3 * row["median"], row["iqr"] / 2e-3))


def derived(value: float | None, row: dict, after: str = "") -> str:
    """What was computed from a row's time, with as many digits as that is known to."""
    if value is None:
        return MISSING
    if row["rounds"] == 1:
        return two_digits(value) + after
    return known(value, value * row["iqr"] / 2 / row["median"])[0] + after


def times(one: dict | None, other: dict, after: str = "×") -> str:
    """The ratio as text, with half the distance between the quartiles of the rounds' own."""
    if one is None:
        return MISSING
    if len(found := ratios(one, other)) == 1:
        return ("1" if found == [1.0] else f"≈ {two_digits(found[0])}") + after
    low, _, high = quantiles(found, n=4, method="inclusive")
    middle, spread = known(median(found), (high - low) / 2)
    return f"{middle}{after}" + f" ± {spread}" * (spread != "0")


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def bytes_text(size: int) -> str:
    return f"{size >> 20:,} MiB" if size >= 1 << 20 else f"{size / 1024:g} KiB"
