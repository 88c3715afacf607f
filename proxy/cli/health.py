"""`reelway health`: whether the gateway that runs is ready.

It needs the admin port's address and nothing else, so a configuration with a mistake does not
make a gateway unwell that serves on with the one it has read.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

import click
from pydantic import ValidationError

from proxy.cli.context import (
    config_option,
    file_of,
    json_option,
    say,
    say_json,
)
from proxy.config import load
from proxy.config.source import ConfigErrors, parse, text_of
from proxy.config.tables import AdminTable
from proxy.config.values import socket_address
from proxy.providers import PROVIDERS
from proxy.telemetry.explain import cause_of

HEALTH_S = 5.0
_READY = "/readyz"


def _http(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    with suppress(ValueError):
        parts = urlsplit(value)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return value
    raise click.BadParameter(f"'{value}' is not http://HOST:PORT")


@click.command()
@click.option(
    "--url",
    callback=_http,
    help="URL of the admin port, like http://127.0.0.1:9080, instead of the configuration.",
)
@config_option
@json_option
def health(url: str | None, config_path: Path | None, as_json: bool) -> None:
    """Check that a running gateway is ready; exit 0 or 1.

    Of the configuration only [admin] listen is needed: mistakes in it are told on standard
    error, and the gateway that runs is asked all the same.
    """
    place = url or _listen(file_of(config_path))
    try:
        with closing(connection_to(place)) as connection:
            path = urlsplit(place).path.rstrip("/").removesuffix(_READY) if url else ""
            connection.request("GET", path + _READY)
            reply = connection.getresponse()
            ready = reply.status == 200
            why = "ready" if ready else reply.read().decode(errors="replace").strip()
            why = why or f"{place} answers {reply.status}"
    except (OSError, HTTPException) as error:
        ready, why = False, f"nobody answers on {place}: {cause_of(error)}"
    if as_json:
        say_json({"ready": ready, "why": why})
    else:
        say(why, err=not ready)
    raise SystemExit(0 if ready else 1)


def connection_to(place: str) -> HTTPConnection:
    """To a URL's host, or to what `[admin] listen` names. No proxy of the environment is asked:
    the admin port is on this machine."""
    if place.startswith(("http://", "https://")):
        parts = urlsplit(place)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=HEALTH_S)
    address = socket_address(place)
    if isinstance(address, Path):
        return _UnixConnection(address)
    return HTTPConnection(*address, timeout=HEALTH_S)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=HEALTH_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


# ---------------------------------------------------------------- where it listens


def _listen(path: Path | None) -> str:
    """`[admin] listen`, also of a file that would not be taken now; else the default."""
    try:
        return load(path, os.environ, PROVIDERS).admin.listen
    except ConfigErrors as errors:
        for problem in errors.problems:
            say(str(problem), err=True)
    assert path is not None  # there are no mistakes in the defaults
    named = _listen_in(path, os.environ)
    place = named or AdminTable().listen
    whose = "which it names" if named else "the default, for it names none that can be read"
    say(f"The configuration has mistakes; asking on {place}, {whose}.", err=True)
    return place


def _listen_in(path: Path, env: Mapping[str, str]) -> str | None:
    try:
        text = text_of(path)
    except ConfigErrors:
        return None
    for part in (text, *_admin_line(text)):
        with suppress(ConfigErrors, ValidationError):
            table = parse(part, str(path), env).data.get("admin")
            if isinstance(table, dict) and "listen" in table:
                return AdminTable.model_validate({"listen": table["listen"]}).listen
    return None


def _admin_line(text: str) -> list[str]:
    """`listen` of [admin] alone: the rest of the file need not be TOML."""
    table = re.search(r"^[ \t]*\[[ \t]*admin[ \t]*\].*(?:\n(?![ \t]*\[).*)*", text, re.MULTILINE)
    line = re.search(r"^[ \t]*listen[ \t]*=.*", table[0], re.MULTILINE) if table else None
    return [f"[admin]\n{line[0]}"] if line else []
