"""Sections of an article that a program writes: what stands between <!-- NAME --> and <!-- /NAME -->."""

import re


def fill(page: str, name: str, text: str) -> str:
    """Return an article with `text` in the section `name`. Raises ValueError unless both markers are there, once."""
    parts = re.split(f"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", page, flags=re.DOTALL)
    if len(parts) != 2:
        raise ValueError(f"the section {name} is not there, not closed or there twice")
    return text.join(parts)
