"""What must hold between the tables of a configuration, each rule one function.

Every check adds what it finds to `Problems` and goes on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import BaseModel

from proxy.config.source import Problems, did_you_mean, say
from proxy.config.tables import (
    BODY_WEIGHT,
    KEYS,
    PRICES,
    CredentialTable,
    DefaultsTable,
    RouteTable,
    Sections,
)
from proxy.config.toml_lines import Loc
from proxy.config.values import is_wildcard
from proxy.model import Route, Upstream
from proxy.providers import globs
from proxy.providers.base import Provider
from proxy.providers.catalogue.row import ModelRow


def check_server(read: Sections, problems: Problems) -> None:
    """Runs also when a table was wrong: its faulty keys then have their defaults here, and
    what was said about them is not followed by "is required"."""
    server, admin, redis = read.server, read.admin, read.redis
    nowhere = is_wildcard(server.listen) or server.listen.startswith("unix:")
    if nowhere and server.public_url is None and not problems.has(("server", "public_url")):
        problems.add(
            ("server", "public_url"),
            f"is required with listen = '{server.listen}', which names no address a client "
            "could use: set the URL clients reach you by, such as https://video.example.com",
        )
    shared = redis.url != "embedded"
    if shared and not server.secrets and not problems.has(("server", "secrets")):
        problems.add(
            ("server", "secrets"),
            "is required with a shared Redis, so that every worker derives the same keys: "
            'set at least one of 32 bytes or more, such as secrets = ["${REELWAY_SECRET}"]',
        )
    if not shared and redis.durability == "replica":
        problems.add(
            ("redis", "durability"),
            "is 'replica', which the embedded store has none of: nothing could be submitted; "
            "use 'local' or 'fsync', or a Redis that has a replica",
        )
    if server.listen == admin.listen and not server.listen.endswith(":0"):
        problems.add(("admin", "listen"), f"is the same as server.listen, '{admin.listen}'")


def check_amounts(read: Sections, problems: Problems) -> None:
    timeouts, limits, cors = read.timeouts, read.limits, read.cors
    if timeouts.poll_interval_s > timeouts.poll_max_s:
        problems.add(
            ("timeouts", "poll_interval_s"),
            f"{timeouts.poll_interval_s:g} is more than poll_max_s, {timeouts.poll_max_s:g}",
        )
    for name in ("json_bytes", "upload_bytes"):
        if getattr(limits, name) > limits.spool_bytes:
            problems.add(
                ("limits", name),
                f"{getattr(limits, name)} is more than spool_bytes, {limits.spool_bytes}: "
                "no such request could ever be taken",
            )
    most = 2 * BODY_WEIGHT * max(limits.json_bytes, limits.form_text_bytes)
    if most > limits.body_bytes:
        problems.add(
            ("limits", "body_bytes"),
            f"{limits.body_bytes} is less than {most}, {2 * BODY_WEIGHT} times the larger of "
            "json_bytes and form_text_bytes: the largest body could never be taken",
        )
    if cors.allow_credentials and "*" in cors.origins:
        problems.add(
            ("cors", "allow_credentials"),
            "cannot be true with origins = ['*']: every site could act as its visitor",
        )


def check_shadows(routes: Mapping[Loc, Route], problems: Problems) -> None:
    """First match wins, so a route behind one that takes all its names is dead."""
    earlier: list[tuple[Loc, Route]] = []
    for loc, route in routes.items():
        for at, other in earlier:
            if globs.covers(other.model, route.model):
                line = problems.source.line((*at, "model"))
                problems.add(
                    (*loc, "model"),
                    f"'{route.model}' can never match: '{other.model}' on line {line} "
                    "comes first and takes every such name; put this route above it",
                )
                break
        earlier.append((loc, route))


def check_default_models(
    defaults: DefaultsTable, routes: Mapping[Loc, Route], problems: Problems
) -> None:
    for dialect, model in defaults.model.items():
        if model and not any(globs.matches(route.model, model) for route in routes.values()):
            literal = [r.model for r in routes.values() if globs.is_literal(r.model)]
            message = f"no route takes the model '{model}'{did_you_mean(model, literal)}"
            problems.add(("defaults", "model", dialect), message)


def check_models(
    rows: Mapping[Loc, ModelRow], providers: Mapping[str, Provider], problems: Problems
) -> None:
    """A row is about a provider that exists, names a model once, and has defaults that the model
    accepts by the same row."""
    seen: dict[tuple[str, str], Loc] = {}
    for loc, row in rows.items():
        if row.provider not in providers and not problems.has((*loc, "provider")):
            message = f"no provider '{row.provider}'{did_you_mean(row.provider, providers)}"
            problems.add((*loc, "provider"), message)
        for name in row.names:
            first = seen.setdefault((row.provider, name), loc)
            if first != loc:
                line = problems.source.line((*first, "model"))
                problems.add((*loc, "model"), f"'{name}' has a row on line {line}: one is enough")
        for default, accepted in (
            ("default_seconds", row.seconds),
            ("default_size", row.sizes),
            ("default_ratio", row.ratios),
        ):
            value = getattr(row, default)
            if value is not None and accepted is not None and value not in accepted:
                among = ", ".join(map(str, accepted))
                problems.add((*loc, default), f"{value} is not among what is accepted: {among}")


def check_keys(
    credentials: object,
    provider: Provider | None,
    providers: Mapping[str, Provider],
    loc: Loc,
    problems: Problems,
) -> None:
    """Each credential has a name of its own and one of the sets of keys its provider takes, or,
    where no such provider exists, some provider. `credentials` are as they were written; what
    is none, and a key that may be a misspelt one of these, is said with the table.
    """

    def worded(keys: frozenset[str]) -> str:
        return " and ".join(key for key in KEYS if key in keys) or "no key"

    if provider is not None:
        takes = provider.credentials
        who = f"provider '{provider.name}' takes {', or '.join(map(worded, takes))}"
    else:
        takes = tuple(keys for one in providers.values() for keys in one.credentials)
        known = ", or ".join(dict.fromkeys(map(worded, takes)))
        who = f"a provider takes one of these: {known}"
    names: set[str] = set()
    for index, credential in enumerate(credentials if isinstance(credentials, list) else ()):
        at: Loc = (*loc, "credentials", index)
        if not isinstance(credential, dict):
            continue
        name = credential.get("name")
        if isinstance(name, str):
            if name in names:
                problems.add((*at, "name"), f"'{name}' is taken by one above")
            names.add(name)
        given = frozenset(key for key in KEYS if key in credential)
        is_known = all(key in CredentialTable.model_fields for key in credential)
        if given not in takes and is_known:
            problems.add(at, f"{who}; given: {worded(given)}")


def check_empty_keys(
    credentials: object, options: BaseModel | None, loc: Loc, problems: Problems
) -> None:
    """An empty api_key is for servers that may have been started without one, as `keyless` of
    the options says."""
    if getattr(options, "keyless", False):
        return
    for index, credential in enumerate(credentials if isinstance(credentials, list) else ()):
        if isinstance(credential, dict) and credential.get("api_key") == "":
            problems.add((*loc, "credentials", index, "api_key"), "must not be empty")


def check_shares(
    row: RouteTable, upstreams: Mapping[str, Upstream | None], loc: Loc, problems: Problems
) -> None:
    """A route leads to upstreams that exist, each once, and to a credential that may submit.

    None in `upstreams` is one that is there but wrong: said elsewhere.
    """
    usable = False
    for index, share in enumerate(row.upstream):
        at: Loc = (*loc, "upstream")
        if (*at, index) in problems.source.lines:  # a list, not one name alone
            at = (*at, index, "name")
        if share.name not in upstreams:
            none = "" if upstreams else "; none is configured"
            message = f"no upstream '{share.name}'{did_you_mean(share.name, upstreams)}{none}"
            problems.add(at, message)
        if share.name in [earlier.name for earlier in row.upstream[:index]]:
            problems.add(at, f"'{share.name}' is named twice; add their weights up")
        upstream = upstreams.get(share.name)
        usable |= upstream is None or not all(key.retired for key in upstream.credentials)
    if not usable:
        problems.add((*loc, "upstream"), "every credential behind this route is retired")


def check_rewrites(row: RouteTable, loc: Loc, problems: Problems) -> None:
    """A field in two of the three lists has one entry that can never do anything."""
    lists: Mapping[str, Sequence[str]] = {
        "defaults": tuple(row.defaults),
        "overrides": tuple(row.overrides),
        "remove": row.remove,
    }
    for first, second in (
        ("defaults", "overrides"),
        ("defaults", "remove"),
        ("overrides", "remove"),
    ):
        for name in lists[first]:
            if name in lists[second]:
                problems.add((*loc, first, name), f"'{name}' is in {second} too, which wins")


_AMOUNT: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")


def check_price(price: Mapping[str, object], loc: Loc, problems: Problems) -> None:
    """Amounts are decimal strings, so that no binary fraction ever meets money."""
    for name, value in price.items():
        if name not in PRICES:
            problems.add((*loc, name), f"unknown key{did_you_mean(name, PRICES)}")
        elif isinstance(value, dict):
            for case, amount in value.items():
                _check_amount(amount, (*loc, name, case), problems)
        else:
            _check_amount(value, (*loc, name), problems)


def _check_amount(value: object, loc: Loc, problems: Problems) -> None:
    if not isinstance(value, str):
        problems.add(loc, f'must be an amount in quotes, such as "0.07", not {say(value)}')
    elif not _AMOUNT.fullmatch(value):
        problems.add(loc, f'must be an amount such as "0.07", with at most 6 decimals: {value!r}')
