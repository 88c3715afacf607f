"""Why somebody could not be reached, whatever library says it, is a few plain words."""

from __future__ import annotations

import socket
import ssl

import pytest

from proxy.telemetry.explain import MOST, cause_of


def wrapped(outer: Exception, inner: Exception, *, explicit: bool) -> Exception:
    """The outer error as it is raised on account of the inner one."""
    try:
        try:
            raise inner
        except Exception as error:
            if explicit:
                raise outer from error
            raise outer  # noqa: B904 - a library that does not say so
    except Exception as error:
        return error


def certificate() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] … (_ssl.c:1006)")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "connection refused"),
        (FileNotFoundError(2, "No such file"), "no such file or directory"),
        (socket.gaierror(-2, "Name or service not known"), "the name is not known (Name or"),
        (TimeoutError(), "no answer in time"),
        (type("ReadTimeoutError", (Exception,), {})("pool"), "no answer in time"),
        (certificate(), "its certificate is refused: self-signed certificate"),
        (ssl.SSLError(1, "wrong version number"), "no TLS: "),
        (ValueError("no such thing"), "no such thing"),
        (ValueError(), "ValueError"),
    ],
)
@pytest.mark.parametrize("explicit", [True, False, None])
def test_the_innermost_thing_that_went_wrong_is_told(
    error: Exception, says: str, explicit: bool | None
) -> None:
    """However it is wrapped; an error without a cause one knows has its own words."""
    if explicit is not None and not isinstance(error, ValueError):
        error = wrapped(RuntimeError("Max retries exceeded"), error, explicit=explicit)
    assert cause_of(error).startswith(says)


def test_an_errors_own_words_are_cut() -> None:
    assert cause_of(ValueError("x" * 1000)) == "x" * MOST


def test_errors_that_name_each_other_end() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert cause_of(one) == "one"
