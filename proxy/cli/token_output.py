"""How `reelway token` prints a key, as text and as JSON. Its secrets are printed once."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from proxy.cli.context import say, say_json
from proxy.cli.limit_options import shown
from proxy.cli.plain import plain
from proxy.store import TokenRecord
from proxy.tokens import MadeToken, state_of


def print_token(record: TokenRecord, as_json: bool) -> None:
    if as_json:
        say_json(token_fields(record))
        return
    for key, value in token_fields(record).items():
        said = value
        if isinstance(value, bool):
            said = "yes" if value else "no"
        elif isinstance(value, list):
            said = ",".join(value) or "all"
        elif isinstance(value, dict):
            said = " ".join(f"{name}={text}" for name, text in value.items()) or "-"
        say(f"{key:<16}{'-' if said is None else plain(str(said))}")


def print_secrets(made: MadeToken, as_json: bool) -> None:
    if as_json:
        say_json(
            {
                "id": made.record.id,
                "token": made.token,
                "access_key": made.record.id,
                "secret_key": made.secret_key,
                "webhook_secret": made.webhook_secret,
                **token_fields(made.record),
            }
        )
        return
    say(f"token           {made.token}")
    say(f"access key      {made.record.id}   (vendors' SDKs)")
    say(f"secret key      {made.secret_key}")
    say(f"webhook secret  {made.webhook_secret}")
    say("The secrets are shown this once; only a hash is kept.", err=True)


def token_fields(record: TokenRecord) -> dict[str, object]:
    limits = shown(record.limits)
    first = {name: limits.pop(name) for name in ("budget", "rpm", "max_in_flight")}
    return {
        "id": record.id,
        "name": record.name,
        "owner": record.owner,
        "state": state_of(record, time.time() * 1000),
        "generation": record.generation,
        "models": list(record.models),
        **first,
        "webhook": record.webhook,
        "created": moment(record.created_ms),
        "expires": _moment_or_none(record.expires_ms),
        "revoked": _moment_or_none(record.revoked_ms),
        "disabled": _moment_or_none(record.disabled_ms),
        "previous_until": _moment_or_none(record.previous_until_ms),
        **limits,
        "labels": dict(record.labels),
        "dialects": list(record.dialects),
        "operations": list(record.operations),
        "addresses": list(record.addresses),
        "shared": record.shared,
    }


def moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment_or_none(ms: int | None) -> str | None:
    return None if ms is None else moment(ms)
