"""What stands between clients and the gateway, judged from the outside: `reelway doctor` asks
itself by `public_url`, as a client would.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import orjson
from aiohttp import ClientConnectorCertificateError, ClientError, ClientSession, ClientTimeout
from yarl import URL

from proxy.gateway.probe_endpoint import PAUSE_S, PROBES
from proxy.http.addresses import is_trusted
from proxy.signing import sign_probe
from proxy.store.capabilities import Finding
from proxy.telemetry.explain import cause_of

ASK_S: Final = 10.0
LIFE_S: Final = 60
TRIES: Final = 3  # a busy machine may read late once; a proxy holds back every time


async def judge(
    public_url: str, secret: bytes, clock: Callable[[], float], trusted: tuple[str, ...]
) -> list[Finding]:
    """`secret` is the gateway's first signing secret; `clock` gives seconds since the epoch;
    `trusted` is [server] trusted_proxies."""
    found = [judge_address(public_url)]
    exp_s = int(clock()) + LIFE_S
    url = f"{public_url}{PROBES}{exp_s}/{sign_probe(secret, exp_s)}"
    try:
        async with ClientSession(timeout=ClientTimeout(total=ASK_S)) as session:
            for _ in range(TRIES):
                seen = await _asked(session, public_url, url, trusted)
                if _HELD not in seen:
                    break
            found += seen
    except ClientConnectorCertificateError as error:
        found.append(_bad(cause_of(error.certificate_error)))
    except (ClientError, OSError, TimeoutError) as error:
        why = cause_of(error)
        found.append(
            Finding(
                "warning",
                f"public_url: nobody answers on {public_url} from here ({why}); "
                "start the gateway, or look at DNS and the proxy in front",
            )
        )
    return found


async def _asked(
    session: ClientSession, public_url: str, url: str, trusted: tuple[str, ...]
) -> list[Finding]:
    async with session.get(url, allow_redirects=False) as reply:
        if 300 <= reply.status < 400:
            target = reply.headers.get("Location", "")
            return [_bad(f"redirects to {target}: clients send no key there; name that address")]
        if reply.status != 200 or "X-Request-Id" not in reply.headers:
            return [
                _bad(
                    f"answers {reply.status}, and not as a gateway with this configuration's "
                    "secret: does it lead here, with the whole path?"
                )
            ]
        first = await reply.content.readline()
        began_s = time.monotonic()
        await reply.content.read()
        waited_s = time.monotonic() - began_s
    seen = orjson.loads(first)
    return [
        _held_back(waited_s),
        judge_host(public_url, seen["host"]),
        *_sender(seen["sender"], seen["forwarded"], trusted),
        _upgrade(seen["upgrade"]),
    ]


def _held_back(waited_s: float) -> Finding:
    if waited_s < PAUSE_S / 2:
        return _HELD
    return Finding("ok", "public_url: answers come through at once")


def judge_host(public_url: str, host: str) -> Finding:
    """As a client signs it: with the port, unless that is the scheme's own."""
    url = URL(public_url)
    sent = url.host_port_subcomponent or ""
    if host not in (sent, f"{url.host_subcomponent}:{url.port}"):
        return _bad(
            f"the Host header arrives as '{host}', not '{sent}': Volcengine signatures cover it, "
            "the port too; pass it on as it came (nginx: proxy_set_header Host $http_host, for "
            "$host is without the port)"
        )
    return Finding("ok", f"public_url: the Host header arrives as '{host}'")


def _sender(sender: str, forwarded: str, trusted: tuple[str, ...]) -> list[Finding]:
    """Nothing without X-Forwarded-For, which we have not sent: only a proxy puts it there."""
    if not forwarded:
        return []
    if is_trusted(sender, trusted):
        return [
            Finding("ok", f"public_url: X-Forwarded-For of {sender or 'the proxy'} is believed")
        ]
    name = sender or "127.0.0.1"  # a unix socket is trusted when anything is
    return [
        Finding(
            "warning",
            f"public_url: {sender or 'a proxy on the unix socket'} forwards requests and is not "
            f"trusted, so every client seems to be at its address, for a key's addresses, for "
            f"[limits] streams_per_address and in the log: [server] trusted_proxies = "
            f'["{name}"]',
        )
    ]


def _upgrade(upgrade: str) -> Finding:
    if upgrade:
        return _bad("a proxy in front adds an Upgrade header; leave it out, nothing here speaks it")
    return Finding("ok", "public_url: nothing is added that breaks keep-alive")


def judge_address(public_url: str) -> Finding:
    """By its looks alone: nobody is asked."""
    host = URL(public_url).host or ""
    local = host == "localhost" or host.endswith((".local", ".internal"))
    with suppress(ValueError):  # a name
        local = local or not ipaddress.ip_address(host).is_global
    if local:
        return Finding(
            "warning",
            f"public_url: {public_url} is no address on the internet; some clients refuse "
            "result URLs there, and providers cannot call back",
        )
    if not public_url.startswith("https://"):
        return Finding(
            "warning", f"public_url: {public_url} is not https: keys and videos travel in the clear"
        )
    return Finding("ok", f"public_url: {public_url}")


def _bad(text: str) -> Finding:
    return Finding("error", f"public_url: {text}")


_HELD: Final = _bad(
    "a proxy in front holds answers back until they are whole; turn that off "
    "(nginx: proxy_buffering off, proxy_request_buffering off)"
)
