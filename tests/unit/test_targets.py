"""One spelling for each path, and which targets and hosts are any."""

from __future__ import annotations

import string

import pytest

from proxy.dialects import DIALECTS
from proxy.gateway.endpoints import EndpointTable
from proxy.http.targets import Target, fault_of, is_host, normalised, read_target

RULES = EndpointTable(DIALECTS).path_rules


def test_the_paths_with_rules_are_those_of_the_dialects() -> None:
    assert RULES.slashed == {"/", "/jimeng/"}
    assert RULES.cut == {"/openai/v1/videos", "/openai/videos"}


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/v1/videos", "/v1/videos"),
        ("//v1///videos//", "/v1/videos"),
        ("/v1/v1/videos", "/v1/videos"),
        ("/v1/v1/v1", "/v1"),
        ("/v1/v1x/videos", "/v1/v1x/videos"),
        ("/kling//v1/v1/videos/text2video/", "/kling/v1/videos/text2video"),
        ("/", "/"),
        ("//", "/"),
        ("/jimeng/", "/jimeng/"),
        ("//jimeng//", "/jimeng/"),
        ("/jimeng", "/jimeng"),
        ("/v1/jimeng/", "/v1/jimeng"),
        ("/%76%31/%7Evideos%2D", "/v1/~videos-"),
        ("/v1/%76%31/videos", "/v1/videos"),
        ("/v1/videos/a%2Fb", "/v1/videos/a%2Fb"),
        ("/v1/videos/%2576", "/v1/videos/%2576"),
        ("/v1/videos/%zz%4", "/v1/videos/%zz%4"),
        ("/v1%2F%2Fvideos", "/v1%2F%2Fvideos"),
        ("*", "*"),
    ],
)
def test_a_path_has_one_spelling(written: str, path: str) -> None:
    assert normalised(written, RULES) == path
    assert normalised(path, RULES) == path


def test_exactly_the_unreserved_characters_are_decoded() -> None:
    """RFC 3986, 2.3: an escape of any other one may mean another thing."""
    unreserved = string.ascii_letters + string.digits + "-._~"
    for code in range(256):
        for escape in (f"%{code:02x}", f"%{code:02X}"):
            wanted = chr(code) if chr(code) in unreserved else escape
            assert normalised(f"/a{escape}b") == f"/a{wanted}b"


@pytest.mark.parametrize("path", ["/.", "/..", "/v1/../x", "/v1/./x", "/v1/videos/..", "/.env"])
def test_dot_segments_are_never_resolved(path: str) -> None:
    assert normalised(path) == path
    assert normalised(path.replace(".", "%2e")) == path


@pytest.mark.parametrize(
    ("target", "read"),
    [
        ("/v1//videos?a=//b", Target("/v1//videos", "/v1/videos", "a=//b")),
        ("http://h/v1/videos/?a", Target("/v1/videos/", "/v1/videos", "a", "h")),
        ("HTTPS://h:8443", Target("/", "/", "", "h:8443")),
        ("http://[::1]:80?x=http://y/z", Target("/", "/", "x=http://y/z", "[::1]:80")),
        ("*", Target("*", "*", "")),
    ],
)
def test_a_target_is_read_in_each_of_its_forms(target: str, read: Target) -> None:
    assert fault_of(target) is None
    assert read_target(target) == read


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("?api-version=preview%2Fvideo_1", "/video_1", "api-version=preview"),
        ("?api-version=preview/video_1/remix", "/video_1/remix", "api-version=preview"),
        ("?api-version=v1%2fvideo_1%2fcontent", "/video_1/content", "api-version=v1"),
        ("?api-version=/edits", "/edits", "api-version="),
        ("?a=b&api-version=v1/edits&c=d", "/edits", "a=b&api-version=v1&c=d"),
        ("?api-version=v1/../admin", "/../admin", "api-version=v1"),
        ("?api-version=v1/", "", "api-version=v1"),
        ("?api-version=v1", "", "api-version=v1"),
        ("?my-api-version=v1/edits", "", "my-api-version=v1/edits"),
        ("?after=v1/edits", "", "after=v1/edits"),
    ],
)
@pytest.mark.parametrize("videos", ["/openai/v1/videos", "/openai/videos"])
def test_a_path_that_was_written_behind_azures_version_is_put_back(
    videos: str, target: str, path: str, query: str
) -> None:
    """LiteLLM appends to an address that ends in `?api-version=…`."""
    assert read_target(videos + target, RULES) == Target(videos, videos + path, query)


@pytest.mark.parametrize("path", ["/v1/videos", "/openai/v1/models", "/", "/openai/v1/videos/a"])
def test_elsewhere_a_version_with_a_slash_is_no_path(path: str) -> None:
    target = f"{path}?api-version=v1/edits"
    assert read_target(target, RULES) == Target(path, path, "api-version=v1/edits")


@pytest.mark.parametrize(
    "target",
    ["", "h:80", "ftp://h/", "http:/h/", "http:///x", "http://u@h/", "http://h:x/", "http://h/#f"],
)
def test_a_target_of_no_form_is_refused(target: str) -> None:
    assert fault_of(target) is not None


@pytest.mark.parametrize(
    "host", ["", "h", "h:80", "h:", "192.0.2.1:8080", "[::1]", "[::1]:80", "a_b.example", "h:65535"]
)
def test_a_host_is_one(host: str) -> None:
    assert is_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "a/b",
        "a b",
        "a:zz",
        "u@h",
        "h:65536",
        "h:80:80",
        "[::1",
        "::1",
        "h?x",
        "h#x",
        "h\\x",
        "h\t",
        "é",
    ],
)
def test_what_is_no_host_is_refused(host: str) -> None:
    assert not is_host(host)
