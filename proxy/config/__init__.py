"""config.toml and the environment → frozen values, or everything that is wrong with them.

`load` reads a file (`config_source`), each table by itself (`config_tables`), checks it against
the others (`config_checks`), and raises one `ConfigErrors` with all problems, so that an
operator mends a file in one go. Nothing else in the house reads settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ValidationError

from proxy.config.checks import (
    check_amounts,
    check_default_models,
    check_empty_keys,
    check_keys,
    check_models,
    check_price,
    check_rewrites,
    check_server,
    check_shadows,
    check_shares,
)
from proxy.config.source import (
    EMPTY,
    ConfigErrors,
    ConfigSource,
    Problem,
    Problems,
    did_you_mean,
    dotted,
    parse,
    text_of,
)
from proxy.config.tables import (
    KEYS,
    SECTIONS,
    CredentialTable,
    DefaultsTable,
    RouteTable,
    Sections,
    UpstreamTable,
)
from proxy.config.toml_lines import Loc
from proxy.config.values import socket_address
from proxy.model import Credential, DialectName, Json, Route, Upstream
from proxy.providers import globs
from proxy.providers.base import Provider
from proxy.providers.catalogue.row import ModelRow

__all__ = ["SECTIONS", "Config", "ConfigErrors", "Problem", "load", "socket_address"]

_HIDDEN: Final = "(hidden)"


@dataclass(frozen=True, slots=True)
class Config(Sections):
    """Everything an operator can set. `origins`: dotted key → `default`, `file:line`, `env NAME`.

    After `load`, `server.state_dir` is absolute and `defaults.model` names, per dialect, the
    model of a request without one: the configured, else the first route that is no glob.
    """

    upstreams: Mapping[str, Upstream] = field(default_factory=dict, repr=False)  # holds headers
    routes: tuple[Route, ...] = ()
    models: tuple[ModelRow, ...] = ()  # what the operator says of models; upstreams have theirs
    path: Path | None = None
    text: str = field(default="", repr=False)  # of the file, as it was read
    passed_over: tuple[Problem, ...] = ()  # mistakes where nothing was needed; see `load`
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def public_url(self) -> str:
        """What clients reach the proxy by, without a trailing slash."""
        return self.server.public_url or f"http://{self.server.listen}"

    def secrets(self) -> Iterator[str]:
        """Every secret in it, so that none gets into a log."""
        yield from self.server.secrets
        yield self.admin.token or ""
        password = urlsplit(self.redis.url).password or ""
        yield from (password, unquote(password))
        for upstream in self.upstreams.values():
            yield from upstream.headers.values()
            for credential in upstream.credentials:
                yield from (getattr(credential, name) or "" for name in KEYS)

    def rows(self) -> list[tuple[str, str, str]]:
        """(key, value as JSON, origin) of every setting, secrets hidden."""
        return [
            (
                dotted(loc),
                json.dumps(value, ensure_ascii=False),
                self.origins.get(dotted(loc), "default"),
            )
            for loc, value in _shown(self)
        ]


_T = TypeVar("_T", bound=BaseModel)


def load(
    path: Path | None,
    env: Mapping[str, str],
    providers: Mapping[str, Provider],
    text: str | None = None,
    needs: Sequence[Loc] | None = None,
) -> Config:
    """The configuration in this file; without a file the defaults, which have no upstreams.
    `text` stands for what is in the file, which is then not read.

    `ConfigErrors` has every problem at once. With `needs` only problems that concern these
    places are errors; the others stand in `passed_over`, and what they spoil has its default or
    is left out.
    """
    if path is not None and text is None:
        text = text_of(path)
    source = EMPTY if path is None else parse(text or "", str(path), env, needs)
    problems = Problems(source)
    known = (*SECTIONS, "upstreams", "routes", "models")
    for name in source.data:
        if name not in known:
            problems.add((name,), f"unknown table{did_you_mean(name, known)}")

    sections: dict[str, Any] = {
        name: _read(table, source.data.get(name, {}), (name,), problems) or table()
        for name, table in SECTIONS.items()
    }
    read = Sections(**sections)
    models = _models(problems, providers)
    upstreams = _upstreams(problems, providers, models)
    routes = _routes(problems, upstreams)
    check_server(read, problems)
    check_amounts(read, problems)
    check_shadows(routes, problems)
    check_default_models(read.defaults, routes, problems)
    passed_over = problems.settle(needs)

    beside = (path.parent if path else Path()).absolute()
    state_dir = beside / read.server.state_dir
    sections["server"] = read.server.model_copy(update={"state_dir": state_dir})
    sections["defaults"] = _filled_in(read.defaults, routes)
    return Config(
        **sections,
        upstreams={row.name: row for row in upstreams.values() if row is not None},
        routes=tuple(routes.values()),
        models=models,
        path=path,
        text=text or "",
        passed_over=passed_over,
        origins=_origins(source),
    )


def _read(table: type[_T], values: object, loc: Loc, problems: Problems) -> _T | None:
    """The table or, when it is wrong, what its sound keys make, so that the checks between
    tables go on; None when one that is required is not among them."""
    row = problems.table(table, values, loc)
    if row is not None or not isinstance(values, dict):
        return row
    sound = {key: value for key, value in values.items() if not problems.has((*loc, key))}
    try:
        return table.model_validate(sound)
    except ValidationError:
        return None


# ---------------------------------------------------------------- upstreams and routes


def _entries(problems: Problems, name: str) -> Iterator[tuple[Loc, object]]:
    values = problems.source.data.get(name, [])
    if not isinstance(values, list):
        problems.add((name,), f"must be written [[{name}]], one for each")
        return
    for index, value in enumerate(values):
        yield (name, index), value


def _models(problems: Problems, providers: Mapping[str, Provider]) -> tuple[ModelRow, ...]:
    """The rows that the operator adds to the catalogue."""
    rows = {
        loc: row
        for loc, values in _entries(problems, "models")
        if (row := _read(ModelRow, values, loc, problems)) is not None
    }
    check_models(rows, providers, problems)
    return tuple(rows.values())


def _upstreams(
    problems: Problems, providers: Mapping[str, Provider], models: Sequence[ModelRow]
) -> dict[str, Upstream | None]:
    """By name; None for one that is there but wrong, so that routes to it are no second error."""
    upstreams: dict[str, Upstream | None] = {}
    lines: dict[str, int] = {}
    for loc, values in _entries(problems, "upstreams"):
        row = _read(UpstreamTable, values, loc, problems)
        # Whatever else is wrong: an operator who mends one thing is not to be told of the next.
        options = _check_upstream(values, loc, problems, providers)
        name = values.get("name") if isinstance(values, dict) else None
        if not isinstance(name, str):
            continue
        if name in lines:
            problems.add((*loc, "name"), f"'{name}' is taken by the one on line {lines[name]}")
            continue
        lines[name] = problems.source.line((*loc, "name"))
        if row is None or row.provider not in providers:
            upstreams[name] = None
        else:
            told = tuple(model for model in models if model.provider == row.provider)
            upstreams[name] = _upstream(row, options, told)
    return upstreams


def _check_upstream(
    values: object, loc: Loc, problems: Problems, providers: Mapping[str, Provider]
) -> BaseModel | None:
    """What an upstream's provider asks of it, of the values as they were written, for the table
    may be faulty elsewhere; returns its options, None when these are wrong."""
    if not isinstance(values, dict):
        return None
    name = values.get("provider")
    provider = providers.get(name) if isinstance(name, str) else None
    if provider is None and isinstance(name, str):
        message = f"no provider '{name}'{did_you_mean(name, providers)}"
        problems.add((*loc, "provider"), message)
    check_keys(values.get("credentials"), provider, providers, loc, problems)
    options = values.get("options", {})
    if provider is None or not isinstance(options, dict):
        return None
    found = problems.table(provider.options, options, (*loc, "options"))
    check_empty_keys(values.get("credentials"), found, loc, problems)
    return found


def _upstream(
    row: UpstreamTable, options: BaseModel | None, models: tuple[ModelRow, ...]
) -> Upstream:
    return Upstream(
        name=row.name,
        provider=row.provider,
        base_url=row.base_url,
        credentials=tuple(Credential(**key.model_dump()) for key in row.credentials),
        paths=row.paths,
        headers=row.headers,
        result_hosts=row.result_hosts,
        options=options,
        models=models,
    )


def _routes(problems: Problems, upstreams: Mapping[str, Upstream | None]) -> dict[Loc, Route]:
    routes: dict[Loc, Route] = {}
    for loc, values in _entries(problems, "routes"):
        row = _read(RouteTable, values, loc, problems)
        if row is None:
            continue
        check_shares(row, upstreams, loc, problems)
        check_rewrites(row, loc, problems)
        check_price(row.price, (*loc, "price"), problems)
        routes[loc] = Route(
            model=row.model,
            upstreams=tuple((share.name, share.weight) for share in row.upstream),
            upstream_model=row.upstream_model,
            defaults=cast("dict[str, Json]", row.defaults),
            overrides=cast("dict[str, Json]", row.overrides),
            remove=row.remove,
            fit=row.fit,
            price=cast("dict[str, Json]", row.price),
            max_age_s=row.max_age_s,
            queue=row.queue,
            passes=row.passes,
        )
    return routes


def _filled_in(defaults: DefaultsTable, routes: Mapping[Loc, Route]) -> DefaultsTable:
    first = next((r.model for r in routes.values() if globs.is_literal(r.model)), "")
    filled: dict[DialectName, str] = {
        dialect: model or first for dialect, model in defaults.model.items()
    }
    return DefaultsTable(model=filled)


# ---------------------------------------------------------------- showing it


def _origins(source: ConfigSource) -> dict[str, str]:
    """By dotted key: each field of a section, each key and entry of upstreams and routes."""
    origins = {
        dotted((section, name)): source.origin((section, name))
        for section, table in SECTIONS.items()
        for name in table.model_fields
    }
    origins |= {
        dotted(loc): source.origin(loc)
        for loc in source.lines
        if loc[0] in ("upstreams", "routes", "models", "defaults") and len(loc) > 2
    }
    return origins


def _shown(config: Config) -> Iterator[tuple[Loc, object]]:
    for section in SECTIONS:
        for name, value in getattr(config, section).model_dump(mode="json").items():
            if section == "defaults":
                yield from (((section, name, dialect), model) for dialect, model in value.items())
            else:
                yield (section, name), _veiled(name, value)
    for index, upstream in enumerate(config.upstreams.values()):
        at: Loc = ("upstreams", index)
        for name in ("name", "provider", "base_url", "paths", "headers", "result_hosts"):
            yield (*at, name), _veiled(name, getattr(upstream, name))
        yield (
            (*at, "options"),
            upstream.options and upstream.options.model_dump(mode="json", by_alias=True),
        )
        for number, credential in enumerate(upstream.credentials):
            for name in CredentialTable.model_fields:
                shown = _veiled(name, getattr(credential, name))
                yield (*at, "credentials", number, name), shown
    for index, route in enumerate(config.routes):
        shares = [{"name": name, "weight": weight} for name, weight in route.upstreams]
        yield ("routes", index, "model"), route.model
        yield ("routes", index, "upstream"), shares
        for name in (
            "upstream_model",
            "defaults",
            "overrides",
            "remove",
            "fit",
            "price",
            "max_age_s",
            "queue",
        ):
            yield ("routes", index, name), getattr(route, name)
        yield ("routes", index, "pass"), route.passes
    for index, told in enumerate(config.models):
        said = told.model_dump(mode="json", exclude_unset=True)
        yield from ((("models", index, name), value) for name, value in said.items())


def _veiled(name: str, value: object) -> object:
    """The value, or what may be shown of it."""
    if not value:
        return value
    if name in ("secrets", "token", *KEYS):
        return _HIDDEN
    if name == "headers" and isinstance(value, dict):
        return dict.fromkeys(value, _HIDDEN)
    if name == "url" and isinstance(value, str):
        return re.sub(r"//[^/]*@", f"//{_HIDDEN}@", value)
    return value
