"""Text under the charset that its sender names.

Rule: bytes that are valid UTF-8 are UTF-8, although the label says ASCII or a Latin charset. Such
labels are defaults (Java's HTTP clients put ISO-8859-1 on every text part, and write UTF-8), and
Latin text that is not ASCII is hardly ever valid UTF-8. Any other charset is named on purpose: it
is tried first, and UTF-8 when the bytes do not fit it.
"""

from __future__ import annotations

import codecs
import re
from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import Final

_MAX_LABEL_CHARS: Final = 40
_BY_DEFAULT: Final = re.compile(r"utf_8|ascii|latin_1|iso8859_\d+|cp125\d")
# Character sets that clients may name. Python has more codecs: some are no charsets (punycode,
# unicode_escape), and some are slow.
_TEXT: Final = re.compile(
    r"utf_(8|16|32)(_[bl]e)?|ascii|latin_1|iso8859_\d+|cp\d+|koi8_[rtu]|mac_\w+|gbk|gb2312|gb18030|"
    r"big5(hkscs)?|euc_(jp|kr|jis_2004|jisx0213)|shift_jis(_2004|x0213)?|iso2022_(jp|kr)\w*|"
    r"johab|tis_620|hz|ptcp154|kz1048"
)
_BOM: Final = "\ufeff"


def codec_of(label: str) -> str | None:
    """Python's name for a charset; None for a charset that is not read.

    A label is looked up in a table of known names, never given to `codecs.lookup` as it is:
    that would import modules by a client's word and remember every wrong one.
    """
    if len(label) > _MAX_LABEL_CHARS or not label.isascii():
        return None
    name = normalize_encoding(label.strip().strip("\"'").lower().replace(":", "-"))
    for word in (name, name.replace("_", "")):
        found = aliases.get(word, word)
        if _TEXT.fullmatch(found):
            try:
                codecs.lookup(found)
            except LookupError:
                continue
            return found
    return None


def decoded(data: bytes | bytearray, label: str | None) -> str:
    """The text without its byte order mark. Raises ValueError when no reading fits, and
    LookupError for a charset that is not read and not needed to be."""
    codec = None if label is None else codec_of(label)
    if codec is not None and not _BY_DEFAULT.fullmatch(codec):
        try:
            return data.decode(codec).removeprefix(_BOM)
        except UnicodeDecodeError:
            return data.decode("utf-8").removeprefix(_BOM)
    try:
        return data.decode("utf-8").removeprefix(_BOM)
    except UnicodeDecodeError:
        if label is None:
            raise
        if codec is None:
            raise LookupError(label) from None
        return data.decode(codec)
