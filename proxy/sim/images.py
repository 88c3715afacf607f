"""Images inside JSON: raw base64 as Kling and Jimeng take it."""

from __future__ import annotations

import base64
import binascii

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


class BadImage(Exception):
    """`message` says what is wrong, without the field's name."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def is_url(value: str) -> bool:
    return value.startswith(("http://", "https://"))


def decode_image(value: str, max_bytes: int) -> bytes:
    """The JPEG or PNG; by its magic number only, its pixels are not looked at."""
    if value.startswith("data:"):
        raise BadImage("must be raw base64 without a 'data:' prefix")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise BadImage("is not valid base64") from None
    if not data.startswith(_MAGIC):
        raise BadImage("is not a JPEG or PNG image")
    if len(data) > max_bytes:
        raise BadImage(f"is larger than {max_bytes} bytes")
    return data
