"""Reading the configuration again, while it is in use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from proxy.config import SECTIONS, Config, load
from proxy.config.source import ConfigErrors
from proxy.providers import PROVIDERS

# What is bound or opened at the start, and of other sections what is taken along then.
WAIT: Final = ("server", "admin", "redis", "tracing")
WAIT_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "timeouts": (
        *("head_s", "body_idle_s", "keepalive_s"),
        *("connect_s", "submit_s", "poll_s", "idle_upstream_s"),
    ),
    "limits": ("connections", "upload_bytes", "spool_bytes", "body_bytes", "upstream_rcvbuf_bytes"),
}


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of reading the configuration again. Not `ok`: nothing changed, for these
    `problems`. `waiting` are the changed keys that need a restart."""

    ok: bool
    problems: tuple[str, ...]
    waiting: tuple[str, ...]
    ms: int


def read_again(
    old: Config, now_ms: int, log: structlog.stdlib.BoundLogger
) -> tuple[Config, Reloaded]:
    """What is in force from now on, and what came of it. A file with a mistake changes nothing:
    the old configuration stays, and the log has every mistake."""
    problems: tuple[str, ...] = ()
    if old.path is None:
        problems = ("there is no configuration file",)
    else:
        try:
            fresh = load(old.path, os.environ, PROVIDERS)
        except (ConfigErrors, OSError) as error:
            problems = tuple(str(error).splitlines())
    if problems:
        log.error("reload failed: the old configuration stays in force", why="\n".join(problems))
        return old, Reloaded(ok=False, problems=problems, waiting=(), ms=now_ms)
    kept = _as_started(fresh, old)
    waiting = tuple(_differences(fresh, kept))
    # Of several workers each says so, and so does their supervisor: the pid tells who.
    log.info(
        "reloaded",
        pid=os.getpid(),
        routes=len(fresh.routes),
        waiting_for_restart=list(waiting),
    )
    return kept, Reloaded(ok=True, problems=(), waiting=waiting, ms=now_ms)


def has_failed(last: Reloaded | None) -> float:
    """What RELOAD_FAILED says of the latest reload."""
    return float(last is not None and not last.ok)


def _as_started(fresh: Config, old: Config) -> Config:
    def with_old(section: str) -> Any:
        before = getattr(old, section)
        late = {key: getattr(before, key) for key in WAIT_KEYS[section]}
        return getattr(fresh, section).model_copy(update=late)

    sections = {section: getattr(old, section) for section in WAIT}
    sections |= {section: with_old(section) for section in WAIT_KEYS}
    return replace(fresh, **sections)


def _differences(fresh: Config, kept: Config) -> Iterator[str]:
    """The keys, as `timeouts.connect_s`."""
    whole = {section: tuple(SECTIONS[section].model_fields) for section in WAIT}
    for section, keys in {**whole, **WAIT_KEYS}.items():
        new, now = getattr(fresh, section), getattr(kept, section)
        yield from (f"{section}.{key}" for key in keys if getattr(new, key) != getattr(now, key))
