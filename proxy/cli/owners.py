"""`reelway owner`: what a tenant may have, over all its keys."""

from __future__ import annotations

from pathlib import Path

import click

from proxy.cli.context import (
    FOR_STORE,
    InOrder,
    config_option,
    json_option,
    load_config,
    say,
    say_json,
    with_store,
)
from proxy.cli.limit_options import limited, limits_options, shown, words_of
from proxy.cli.plain import plain
from proxy.cli.tables import columns
from proxy.model import Limits
from proxy.store import OwnerRecord, Store

_MODEL_LIMIT = "max-in-flight"


@click.group(cls=InOrder)
def owner() -> None:
    """Show and set limits of owners, over all API keys of each."""


def _models(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, Limits | None], ...]:
    """`GLOB:max-in-flight=5`; `GLOB:none` takes the glob's limit away."""
    found: list[tuple[str, Limits | None]] = []
    for value in values:
        glob, _, rest = value.rpartition(":")
        name, _, number = rest.partition("=")
        is_number = number.isascii() and number.isdigit() and 0 < len(number) < 10 and int(number)
        if glob and rest == "none":
            found.append((glob, None))
        elif glob and name == _MODEL_LIMIT and is_number:
            found.append((glob, Limits(max_in_flight=int(number))))
        else:
            raise click.BadParameter(
                f"'{value}' is not a model's limit; write it like 'sora-*:{_MODEL_LIMIT}=5', or "
                "'sora-*:none'"
            )
    return tuple(found)


@owner.command("set")
@click.argument("name", metavar="OWNER")
@limits_options
@click.option(
    "--model",
    "models",
    multiple=True,
    callback=_models,
    help="Tasks in flight per model: 'sora-*:max-in-flight=5'.",
)
@config_option
@json_option
def owner_set(
    name: str,
    said: dict[str, int | None],
    models: tuple[tuple[str, Limits | None], ...],
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Change the limits of OWNER. Options that are left out change nothing."""
    if not name.strip():
        raise click.BadParameter("an owner has a name.", param_hint="OWNER")

    async def go(store: Store) -> None:
        known = await store.owners.get(name)
        of_models = dict(known.models)
        for glob, limits in models:
            if limits is None:
                of_models.pop(glob, None)
            else:
                of_models[glob] = limits
        changed = OwnerRecord(name, limited(known.limits, said), tuple(of_models.items()))
        await store.owners.put(changed)
        _tell(changed, as_json)

    with_store(load_config(config_path, FOR_STORE), go)


@owner.command("show")
@click.argument("name", metavar="OWNER")
@config_option
@json_option
def owner_show(name: str, config_path: Path | None, as_json: bool) -> None:
    """Show the limits of OWNER."""

    async def go(store: Store) -> None:
        _tell(await store.owners.get(name), as_json)

    with_store(load_config(config_path, FOR_STORE), go)


@owner.command("list")
@config_option
@json_option
def owner_list(config_path: Path | None, as_json: bool) -> None:
    """List owners that have limits."""

    async def go(store: Store) -> None:
        records = await store.owners.list()
        if as_json:
            say_json([_public(record) for record in records])
            return
        if not records:
            say("No owner has limits of its own: `owner set NAME …` gives it some.")
            return
        rows = [
            (record.name, words_of(record.limits), ", ".join(_model_words(record)) or "-")
            for record in records
        ]
        say(columns(("OWNER", "LIMITS", "MODELS"), rows))

    with_store(load_config(config_path, FOR_STORE), go)


def _tell(record: OwnerRecord, as_json: bool) -> None:
    if as_json:
        say_json(_public(record))
        return
    say(f"{'owner':<16}{plain(record.name)}")
    for name, value in shown(record.limits).items():
        say(f"{name:<16}{'-' if value is None else plain(str(value))}")
    say(f"{'models':<16}{plain(', '.join(_model_words(record))) or '-'}")


def _public(record: OwnerRecord) -> dict[str, object]:
    models = {glob: {"max_in_flight": limits.max_in_flight} for glob, limits in record.models}
    return {"owner": record.name, **shown(record.limits), "models": models}


def _model_words(record: OwnerRecord) -> list[str]:
    return [f"{glob}:{_MODEL_LIMIT}={limits.max_in_flight}" for glob, limits in record.models]
