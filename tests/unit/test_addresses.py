"""Which addresses a request that somebody else chose may go to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.addresses import client_address, inner_target, is_public, refused_target

PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",  # shared address space of carriers
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",  # metadata service of the clouds
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "::127.0.0.1",
    "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
    "64:ff9b:1::1",
    "100::1",
    "2001::1",  # Teredo
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
    "::ffff:8.8.8.8",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_on_the_internet_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_anybody_may_have_is_let_through(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://127.0.0.1:9555/hook", "127.0.0.1:9555"),
        ("http://169.254.169.254/latest", "169.254.169.254:80"),
        ("https://10.0.0.1/", "10.0.0.1:443"),
        ("http://user@[::1]/", "[::1]:80"),
        ("http://[0:0::1]:8080/", "[::1]:8080"),
        ("http://127.0.0.1:9001/", None),
        ("http://[fd00::1]/", None),
        ("https://8.8.8.8/", None),
        ("https://[2606:4700:4700::1111]/", None),
        ("http://localhost:9555/", None),
        ("https://hooks.example/127.0.0.1", None),
    ],
)
def test_a_url_whose_host_is_an_inner_address_is_known_without_calling_it(
    url: str, target: str | None
) -> None:
    """Not one that is allowed, and not a name, which may lead anywhere."""
    assert refused_target(url, ("127.0.0.1:9001", "[fd00::1]:80")) == target


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_judged_like_the_plain_one(address: IPv4Address) -> None:
    """Writing an inner address as IPv6 opens no door."""
    assert is_public(f"::ffff:{address}") == is_public(str(address))


@given(st.ip_addresses())
def test_nothing_is_let_through_that_python_knows_to_be_inner(
    address: IPv4Address | IPv6Address,
) -> None:
    """Our list is longer than `ipaddress`'s own, never shorter."""
    if is_public(str(address)):
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        judged = mapped or address
        assert judged.is_global
        assert not judged.is_multicast


@pytest.mark.parametrize("text", ["", "localhost", "example.com", "1.2.3", "0x7f.1", "2130706433"])
def test_only_literals_are_judged(text: str) -> None:
    """A name is never an address: the guard looks at what it resolved to."""
    with pytest.raises(ValueError, match="does not appear to be"):
        is_public(text)


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "trusted", "client"),
    [
        ("10.0.0.1", None, ("10.0.0.0/8",), "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9", (), "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9", ("10.0.0.0/8",), "203.0.113.9"),
        ("198.51.100.1", "203.0.113.9", ("10.0.0.0/8",), "198.51.100.1"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.9", ("10.0.0.0/8",), "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, 10.0.0.2", ("10.0.0.0/8",), "203.0.113.9"),
        ("10.0.0.1", "nonsense", ("10.0.0.0/8",), "10.0.0.1"),
        ("", "203.0.113.9", ("10.0.0.0/8",), "203.0.113.9"),
        ("::1", "2001:db8::5", ("::1/128",), "2001:db8::5"),
    ],
)
def test_only_our_own_proxies_say_who_asks(
    peer: str, forwarded_for: str | None, trusted: tuple[str, ...], client: str
) -> None:
    assert client_address(peer, forwarded_for, trusted) == client


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.1.2.3", "169.254.169.254", "[::1]", "[fd00::1]", "[64:ff9b::7f00:1]"),
        *("localhost", "LOCALHOST", "localhost.", "x.localhost", "127.0.0.1."),
        *("127.1", "127.0.1", "0177.0.0.1", "0x7f.1", "0x7F000001", "2130706433", "0"),
        # IDNA maps other digits, letters and full stops to these (UTS 46, section 4).
        *("\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021", "127\uff0e0\uff610.1"),
        *("\u24dbocalhost", "\u2460\u2461\u2466.1", "localhost\u3002"),
    ],
)
def test_a_plainly_inner_address_is_known_in_every_spelling(host: str) -> None:
    assert inner_target(f"http://{host}/a.png", ()) is not None
    assert inner_target(f"http://user@{host}:8080/a.png", ()) is not None


@pytest.mark.parametrize(
    "host",
    [
        *("example.com", "8.8.8.8", "[2606:4700::1]", "134744072", "8.8.2056"),
        *("localhost.example.com", "1.2.3.4.5", "256.1.1.1", "08.1.1.1", "0xg", "127.0.0.1.nip.io"),
        "9" * 5000,
    ],
)
def test_what_may_be_public_is_left_to_the_connection(host: str) -> None:
    assert inner_target(f"http://{host}/a.png", ()) is None


def test_an_inner_address_the_operator_allows_is_not_refused() -> None:
    """The exact pair of host and port, as the address is written in the configuration."""
    allowed = ("10.0.0.5:9000", "[fd00::1]:80", "localhost:8000")
    for url in ("http://10.0.0.5:9000/a", "http://[fd00::1]/a", "http://localhost:8000/a"):
        assert inner_target(url, allowed) is None
    assert inner_target("http://10.0.0.5/a", allowed) == "10.0.0.5:80"
    assert inner_target("https://10.0.0.5/a", allowed) == "10.0.0.5:443"
