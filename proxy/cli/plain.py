"""Text of strangers as a terminal may show it.

Rule: whatever a command prints goes through `plain`. A prompt, an id a client chose or a provider's
words may hold what moves the cursor, changes the title, answers for the keyboard, or turns the
order of the letters around.
"""

from __future__ import annotations

import re
from typing import Final

# C0 (tabs and line ends too), DEL, C1; zero-width marks and bidirectional controls (UAX 9); line
# and paragraph separators; lone surrogates, which no terminal can be sent; the byte order mark.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]"
)


def plain(text: str) -> str:
    """The same text with each character that is no plain sign written out: `\\x1b`, `\\u202e`."""
    return _UNSAFE.sub(lambda found: _written(ord(found[0])), text)


def plain_json(text: str) -> str:
    """A JSON document with the same characters as JSON's own escapes: it means what it meant."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _written(code: int) -> str:
    short = {9: "\\t", 10: "\\n", 13: "\\r"}
    return short.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
