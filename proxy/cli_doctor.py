"""`reelway doctor` and `reelway health`: is it well, and what would it need."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
import urllib.error
import urllib.request
from pathlib import Path

import click
from yarl import URL

from proxy.command import config_option, json_option, load_config, say_json, with_store
from proxy.config import Config
from proxy.store import Store
from proxy.store.promises import Finding, findings

MIN_FILES = 4096
HEALTH_S = 5.0


@click.command()
@config_option
@json_option
def doctor(config_path: Path | None, as_json: bool) -> None:
    """Look for what would fail: Redis, addresses, limits."""
    config = load_config(config_path)
    found: list[Finding] = []

    async def look(store: Store) -> None:
        found.extend(await findings(store.batch, config.redis.durability))
        found.extend(await _upstreams(config))

    with_store(config, look)
    found.extend([_public_url(config), _files()])
    if as_json:
        say_json([{"level": each.level, "text": each.text} for each in found])
    else:
        for each in found:
            click.echo(f"{each.level:<8}{each.text}")
    raise SystemExit(1 if any(each.level == "error" for each in found) else 0)


@click.command()
@config_option
@json_option
def health(config_path: Path | None, as_json: bool) -> None:
    """Ask a running gateway whether it is ready; exit 0 or 1."""
    config = load_config(config_path)
    url = f"http://{config.admin.listen}/readyz"
    try:
        with urllib.request.urlopen(url, timeout=HEALTH_S) as reply:
            ready, why = reply.status == 200, "ready"
    except urllib.error.HTTPError as refusal:
        ready, why = False, refusal.read().decode(errors="replace").strip()
    except OSError as error:
        ready, why = False, f"nobody answers on {url}: {getattr(error, 'reason', error)}"
    if as_json:
        say_json({"ready": ready, "why": why})
    else:
        click.echo(why, err=not ready)
    raise SystemExit(0 if ready else 1)


async def _upstreams(config: Config) -> list[Finding]:
    """Whether each upstream's host can be reached at all; no request is made."""
    found = []
    for upstream in config.upstreams.values():
        url = URL(upstream.base_url)
        try:
            async with asyncio.timeout(config.timeouts.connect_s):
                _reader, writer = await asyncio.open_connection(
                    url.host, url.port, ssl=True if url.scheme == "https" else None
                )
            writer.close()
            found.append(Finding("ok", f"upstream {upstream.name}: {url.host}:{url.port} answers"))
        except (OSError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            found.append(
                Finding("error", f"upstream {upstream.name}: {url.host}:{url.port}: {why}")
            )
    return found


def _public_url(config: Config) -> Finding:
    host = URL(config.public_url).host or ""
    local = host == "localhost" or host.endswith((".local", ".internal"))
    with contextlib.suppress(ValueError):  # a name
        local = local or not ipaddress.ip_address(host).is_global
    if local:
        return Finding(
            "warning",
            f"public_url: {config.public_url} is no address on the internet; some clients refuse "
            "result URLs there, and providers cannot call back",
        )
    return Finding("ok", f"public_url: {config.public_url}")


def _files() -> Finding:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MIN_FILES:
        return Finding(
            "warning",
            f"limits: {soft} open files; a stream takes up to four, so raise it: ulimit -n 65536",
        )
    return Finding("ok", f"limits: {soft} open files")
