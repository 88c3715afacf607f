"""The console's pictures for the README: `python -m tests.system.screenshots` writes docs/images.

A demo gateway with a month of made-up history, some videos that are really made, and one browser.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from proxy.http.outbound import Draft, Rendered
from proxy.model import (
    Credential,
    Json,
    Kind,
    Operation,
    Status,
    Task,
    TaskError,
    TaskState,
    Upstream,
)
from proxy.providers.outcomes import Accepted
from proxy.server.embedded_store import open_store
from proxy.store import Store, new_task_id
from proxy.tasks import lifecycle
from proxy.tasks.pricing import price_micro
from tests.rig.eventually import eventually_sync
from tests.rig.programs import ask
from tests.system.browser import Demo, chromium, demo

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MOST_BYTES = 200_000
PATIENCE_MS = 30_000
FADE_MS = 2000  # the browser's own sign that a video loads is gone then
SEED = 7
DAYS = 29
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
RETENTION_S = 30 * 86_400
SCALE = 1.1  # of what keeps them small enough for a README

OWNERS = {"studio-north": 3, "acme-film": 2, "lab": 1}  # and how busy each is
MODELS: dict[str, tuple[str, dict[str, Json]]] = {
    "sora-2": ("sim-openai", {"per_second": "0.10"}),
    "sora-2-on-kling": ("sim-kling", {"per_second": "0.07"}),
    "kling-v2-6": ("sim-kling", {"per_second": "0.07"}),
    "jimeng_t2v_v30": ("sim-jimeng", {"per_video": "0.28"}),
}
PROMPTS = (
    ("sora-2", "A lighthouse at dawn, fog rolling in over the cliffs, slow dolly shot"),
    ("kling-v2-6", "Macro of espresso pouring into a glass, golden morning light"),
    ("sora-2-on-kling", "A calico cat playing a piano on stage, one spotlight, 35 mm"),
    ("jimeng_t2v_v30", "Drone flight over a glacier, soft light, high contrast"),
    ("sora-2", "A paper aeroplane crossing a sunlit library in one long take"),
    ("sora-2-on-kling", "Rain on a neon street, a paper boat drifting past"),
)


def main() -> None:
    path = shutil.which("chromium")
    if path is None:
        sys.exit("the pictures need Chromium: apt-get install chromium")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        with demo(state, speed=12) as gateway:
            asyncio.run(make_history(state))
            finished = make_videos(gateway)
            with sync_playwright() as playwright, chromium(playwright, path) as browser:
                take(browser, gateway, finished)
    for image in sorted(IMAGES.glob("console-*.png")):
        size = image.stat().st_size
        print(f"{image.name}: {size:,} bytes")
        if size > MOST_BYTES:
            sys.exit(f"{image.name} is larger than {MOST_BYTES:,} bytes")


# ---------------------------------------------------------------- what there is to see


async def make_history(state: Path) -> None:
    """A month of tasks that have ended, through the store's own doors."""
    async with open_store("embedded", state, timeout_s=10) as store:
        chance = random.Random(SEED)
        latest_ms = int(time.time() * 1000) - HOUR_MS
        for back in range(DAYS, -1, -1):
            tasks = []
            for owner, busy in OWNERS.items():
                for model in MODELS:
                    growth = 1 + (DAYS - back) / DAYS
                    for _ in range(round(chance.uniform(0.4, 2.6) * busy * growth)):
                        at_ms = latest_ms - back * DAY_MS - chance.randrange(DAY_MS)
                        tasks.append(_end(store, chance, owner, model, at_ms))
            await asyncio.gather(*tasks)


async def _end(store: Store, chance: random.Random, owner: str, model: str, at_ms: int) -> None:
    """One task from its submit to its end."""
    upstream, price = MODELS[model]
    rendered = Rendered(chance.choice((4.0, 5.0, 8.0, 10.0)), (1280, 720))
    task = Task(
        id=new_task_id(owner, f"{chance.getrandbits(180):046x}"),
        owner=owner,
        token_id=owner,
        dialect="openai",
        operation=Operation.CREATE,
        kind=Kind.TEXT,
        model=model,
        created_ms=at_ms,
        updated_ms=at_ms,
        price=price,
        seconds=rendered.seconds,
        size=rendered.size,
        hold_micro=price_micro(price, rendered),
    )
    is_good, took_ms = chance.random() > 0.03, chance.randrange(8000, 40_000)
    due_ms = int(time.time() * 1000) + DAY_MS  # nobody follows it meanwhile
    await store.tasks.reserve(task, due_ms, 0)
    account = Upstream(upstream, "openai", "http://127.0.0.1", (Credential("demo", api_key="k"),))
    key, draft = account.credentials[0], Draft("POST", "/")
    sent = lifecycle.sent(task, at_ms + 12, account, key, model, draft, rendered)
    await store.tasks.swap(task, sent, due_ms, "sent", RETENTION_S)
    bound = lifecycle.bound(sent, Accepted("up"), at_ms + 200)
    await store.tasks.swap(sent, bound, due_ms, "accepted", RETENTION_S)
    if is_good:
        ended = lifecycle.advanced(bound, TaskState(Status.COMPLETED), at_ms + took_ms)
    else:
        error = TaskError("moderation_blocked", "The provider's content rules stopped it.")
        ended = lifecycle.failed(bound, error, at_ms + took_ms)
    assert ended is not None
    await store.tasks.swap(bound, replace(ended), None, ended.stage.value, RETENTION_S)


def make_videos(gateway: Demo) -> str:
    """Some finished ones, one that failed, and some that take their time; the id of the one to
    show."""
    keys = {owner: make_key(gateway, owner) for owner in OWNERS}
    owners = list(OWNERS) * 2
    ids = {
        prompt: submit(gateway, keys[owner], model, prompt)
        for owner, (model, prompt) in zip(owners, PROMPTS, strict=True)
    }
    eventually_sync(lambda: all(status_of(gateway, task) == "completed" for task in ids.values()))
    refused = submit(gateway, keys["lab"], "sora-2", "A video that its provider gives up on")
    upstream_id = show(gateway, refused)["upstream_id"]
    ask(f"{gateway.sim_url}/tasks/{upstream_id}/fail", body={"code": "moderation_blocked"})
    eventually_sync(lambda: status_of(gateway, refused) == "failed")
    ask(f"{gateway.sim_url}/settings", body={"speed": 0.7})
    submit(gateway, keys["acme-film"], *PROMPTS[1])
    submit(gateway, keys["studio-north"], *PROMPTS[0])
    return ids[PROMPTS[2][1]]


def make_key(gateway: Demo, owner: str) -> str:
    limits = {"budget_month_micro": 400_000_000, "max_in_flight": 8}
    body = {"name": owner, "owner": owner, "limits": limits}
    return str(ask(f"{gateway.admin_url}/api/tokens", gateway.admin_token, body).json()["token"])


def submit(gateway: Demo, key: str, model: str, prompt: str) -> str:
    body = {"model": model, "prompt": prompt, "size": "1280x720"}
    reply = ask(f"{gateway.url}/v1/videos", key, body)
    assert reply.status == 200, reply
    return str(reply.json()["id"])


def show(gateway: Demo, task: str) -> dict[str, object]:
    found: dict[str, object] = ask(
        f"{gateway.admin_url}/api/tasks/{task}", gateway.admin_token
    ).json()
    return found


def status_of(gateway: Demo, task: str) -> object:
    return show(gateway, task)["status"]


# ---------------------------------------------------------------- pictures


def take(browser: Browser, gateway: Demo, task: str) -> None:
    wide = ViewportSize(width=1200, height=750)
    phone = ViewportSize(width=390, height=844)

    overview = sign_in(browser, gateway, wide, "light")
    overview.locator(".feed-row .bar.busy:not([aria-valuenow='0'])").first.wait_for()
    overview.get_by_role("heading", level=1).click()
    overview.screenshot(path=IMAGES / "console-overview.png")

    narrow = sign_in(browser, gateway, phone, "light")
    narrow.goto(f"{gateway.admin_url}/#/usage")
    expect(narrow.locator(".plot").first).to_be_visible()
    narrow.screenshot(path=IMAGES / "console-narrow.png")

    dark = sign_in(browser, gateway, wide, "dark")
    dark.goto(f"{gateway.admin_url}/#/tasks/{task}")
    dark.locator("video").evaluate(
        """video => new Promise((resolve) => {
            video.oncanplaythrough = resolve;
            video.currentTime = 2.4;
        })"""
    )
    dark.wait_for_timeout(FADE_MS)
    dark.screenshot(path=IMAGES / "console-task-dark.png")


def sign_in(browser: Browser, gateway: Demo, size: ViewportSize, theme: str) -> Page:
    page = browser.new_page(
        viewport=size,
        color_scheme="dark" if theme == "dark" else "light",
        locale="en-GB",
        device_scale_factor=SCALE,
    )
    page.set_default_timeout(PATIENCE_MS)
    page.goto(gateway.admin_url)
    page.get_by_label("Admin token", exact=True).fill(gateway.admin_token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator(".skeleton")).to_have_count(0)
    return page


if __name__ == "__main__":
    main()
