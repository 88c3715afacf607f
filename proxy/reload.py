"""Reading the configuration again, while it is in use."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

import structlog

from proxy.admin.fleet import Reloaded
from proxy.config import Config, load
from proxy.config_source import ConfigErrors
from proxy.providers import PROVIDERS

# What is bound or opened at the start.
WAIT: Final = ("server", "admin", "redis")


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
        log.error("not reloaded: the old configuration stays", why="\n".join(problems))
        return old, Reloaded(ok=False, problems=problems, waiting=(), ms=now_ms)
    waiting = tuple(name for name in WAIT if getattr(fresh, name) != getattr(old, name))
    log.info("reloaded", routes=len(fresh.routes), waiting_for_restart=list(waiting))
    kept = replace(fresh, server=old.server, admin=old.admin, redis=old.redis)
    return kept, Reloaded(ok=True, problems=(), waiting=waiting, ms=now_ms)
