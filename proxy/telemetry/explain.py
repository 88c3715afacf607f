"""Explain a failed connection in a few words: client libraries wrap and word errors differently."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator

MOST = 200


def cause_of(error: BaseException) -> str:
    """The cause in plain words: `connection refused`, `the name is not known`, … The words of the
    operating system or of TLS if they are among the causes, else the error's own, cut short."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, ssl.SSLCertVerificationError):
            if not hasattr(each, "verify_message"):  # aiohttp's, around OpenSSL's own
                continue
            return f"its certificate is refused: {each.verify_message}"
        if isinstance(each, ssl.SSLError):
            reason = getattr(each, "reason", None) or str(each)  # only OpenSSL's own have one
            return f"no TLS: {reason.lower().replace('_', ' ')}"
        if isinstance(each, socket.gaierror):
            return f"the name is not known ({each.strerror})"
    for each in chain:
        if isinstance(each, OSError) and each.errno is not None and each.errno > 0:
            return os.strerror(each.errno).lower()
    if any(isinstance(each, TimeoutError) or "Timeout" in type(each).__name__ for each in chain):
        return "no answer in time"
    return (str(error) or type(error).__name__)[:MOST]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, innermost last."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__]
