"""`reelway webhook`: what clients were told, what they would not hear, and telling it again."""

from __future__ import annotations

import time
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
    when_ms,
    with_store,
)
from proxy.cli.tables import columns
from proxy.errors import NotFound
from proxy.store import Store
from proxy.store.notice import Webhook
from proxy.tasks.webhooks import event_id_of, name_of, replay

_STATES = ("pending", "delivered", "dead")


def _name_of(_context: click.Context, _argument: click.Parameter, value: str) -> str:
    return name_of(value)


@click.group(cls=InOrder)
def webhook() -> None:
    """List webhooks and send one again."""


@webhook.command("list")
@click.option("--state", type=click.Choice(_STATES), help="Only webhooks in this state.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@config_option
@json_option
def webhook_list(state: str | None, limit: int, config_path: Path | None, as_json: bool) -> None:
    """List the latest webhooks, oldest first.

    Delivered and dead webhooks are kept for 7 days or as long as their task, at most 10,000.
    """

    async def go(store: Store) -> None:
        hooks, has_more = await store.webhooks.list(limit, state)
        if as_json:
            say_json({"webhooks": [_public(hook) for hook in hooks], "has_more": has_more})
            return
        if not hooks:
            say("There are no such webhooks.")
            return
        names = ("ID", "EVENT", "STATE", "TRIED", "CREATED", "LAST", "URL")
        rows = [
            (
                hook.name,
                f"video.{hook.status.value}",
                hook.state,
                str(hook.attempts),
                when_ms(hook.created_ms),
                hook.log[-1][1] if hook.log else "-",
                hook.url,
            )
            for hook in hooks
        ]
        say(columns(names, rows))
        if has_more:
            say(f"There are more than {limit}; --limit shows them.", err=True)

    with_store(load_config(config_path, FOR_STORE), go)


@webhook.command("replay")
@click.argument("name", metavar="ID", callback=_name_of)
@config_option
@json_option
def webhook_replay(name: str, config_path: Path | None, as_json: bool) -> None:
    """Send a webhook again, with retries for up to three days.

    ID is what `webhook list` shows, or the event's own id (evt_…).
    """

    async def go(store: Store) -> None:
        try:
            again = await replay(store, name, int(time.time() * 1000))
        except NotFound as fault:
            raise click.ClickException(
                f"there is no webhook {name}; `webhook list` shows them"
            ) from fault
        if as_json:
            say_json(_public(again))
        else:
            say(f"{name} is due now; a running gateway sends it")

    with_store(load_config(config_path, FOR_STORE), go)


def _public(hook: Webhook) -> dict[str, object]:
    return {
        "id": hook.name,
        "event_id": event_id_of(hook),
        "event": f"video.{hook.status.value}",
        "task_id": hook.task_id,
        "token_id": hook.token_id,
        "url": hook.url,
        "state": hook.state,
        "attempts": hook.attempts,
        "created": when_ms(hook.created_ms),
        "log": [{"at": when_ms(ms), "result": what} for ms, what in hook.log],
    }
