"""Globs over model names: `*` is any run of characters, `?` any one. Case counts.

There are no character classes: `[` is a letter like any other, so that every name a provider
may invent can be written down literally.
"""

from __future__ import annotations

import re
from functools import lru_cache


def is_literal(pattern: str) -> bool:
    """True when the pattern stands for one name only, itself."""
    return "*" not in pattern and "?" not in pattern


def matches(pattern: str, name: str) -> bool:
    if is_literal(pattern):
        return pattern == name
    return _compiled(pattern).fullmatch(name) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    # Runs of stars mean one star; left as they are they make the regex backtrack for ever.
    pieces = re.split(r"(\*+|\?)", pattern)
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(p[:1], re.escape(p)) for p in pieces), re.DOTALL)


def covers(wide: str, narrow: str) -> bool:
    """True when every name `narrow` matches is matched by `wide` too.

    Never wrongly True. It compares the patterns letter by letter, so a few odd inclusions
    (`?*` over `*?`) are answered False.
    """
    # reach: the lengths of `narrow` that the part of `wide` read so far can take up.
    reach = {0}
    for letter in wide:
        if letter == "*":
            reach = set(range(min(reach), len(narrow) + 1)) if reach else reach
        elif letter == "?":
            reach = {at + 1 for at in reach if at < len(narrow) and narrow[at] != "*"}
        else:
            reach = {at + 1 for at in reach if at < len(narrow) and narrow[at] == letter}
    return len(narrow) in reach
