"""The console in a real browser, in front of a real gateway: what an operator does with it, by
mouse and by keyboard. Whatever a test does, a script error, a refused resource or a breach of the
content policy fails it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    Response,
    Route,
    ViewportSize,
    expect,
    sync_playwright,
)

from tests.rig.eventually import eventually_sync
from tests.rig.programs import ask
from tests.system.browser import CLIP, Demo, chromium, demo

PATIENCE_MS = 30_000  # only met by a hang
SPEED = 6.0
PLACES = {
    "": "Overview",
    "tasks": "Tasks",
    "usage": "Usage",
    "try": "Try it",
    "tokens": "Tokens",
    "owners": "Owners",
    "upstreams": "Upstreams",
    "webhooks": "Webhooks",
    "routes": "Routes",
    "config": "Configuration",
}
NARROW = ViewportSize(width=360, height=740)
REFUSED_401 = "the server responded with a status of 401"

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with demo(tmp_path_factory.mktemp("console") / "state", SPEED) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tool: Callable[[str], str]) -> Iterator[Browser]:
    with sync_playwright() as playwright, chromium(playwright, tool("chromium")) as running:
        yield running


@dataclass
class Console:
    """One tab, and what it complained of. `tolerated` are the complaints a test provokes."""

    page: Page
    gateway: Demo
    complaints: list[str] = field(default_factory=list)
    tolerated: list[str] = field(default_factory=list)

    def open(self, place: str = "") -> None:
        self.page.goto(f"{self.gateway.admin_url}/#/{place}")

    def sign_in(self, place: str = "") -> None:
        self.open(place)
        self.page.get_by_label("Admin token", exact=True).fill(self.gateway.admin_token)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("main")).to_have_attribute("id", "main")

    def visit(self, place: str) -> None:
        """By its address, as a link does; the page is there with what it shows."""
        self.page.goto(f"{self.gateway.admin_url}/#/{place}")
        expect(self.heading).to_be_visible()
        expect(self.page.locator(".skeleton")).to_have_count(0)

    @property
    def heading(self) -> Locator:
        return self.page.get_by_role("heading", level=1)

    def hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@contextmanager
def tab(browser: Browser, gateway: Demo, **options: Any) -> Iterator[Console]:
    context = browser.new_context(**{"locale": "en-GB", "color_scheme": "light", **options})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    console = Console(page, gateway)
    page.on("console", console.hear)
    page.on("pageerror", lambda error: console.complaints.append(str(error)))
    yield console
    context.close()  # not after a failure: the browser ends with the module
    unexpected = [
        said
        for said in console.complaints
        if not any(tolerated in said for tolerated in console.tolerated)
    ]
    assert unexpected == []


@pytest.fixture
def console(browser: Browser, gateway: Demo) -> Iterator[Console]:
    with tab(browser, gateway) as opened:
        yield opened


@pytest.fixture
def signed_in(console: Console) -> Console:
    console.sign_in()
    return console


def make_task(gateway: Demo, prompt: str, **fields: str) -> str:
    body = {"model": "sora-2", "prompt": prompt, **fields}
    reply = ask(f"{gateway.url}/v1/videos", gateway.token, body)
    assert reply.status == 200, reply
    return str(reply.json()["id"])


def make_token(gateway: Demo, name: str) -> dict[str, Any]:
    reply = ask(f"{gateway.admin_url}/api/tokens", gateway.admin_token, {"name": name})
    assert reply.status == 201, reply
    made: dict[str, Any] = reply.json()
    return made


@contextmanager
def standing_still(gateway: Demo) -> Iterator[None]:
    """The simulated providers render only what `render` says."""
    settings = f"{gateway.sim_url}/settings"
    assert ask(settings, body={"manual": True}).status == 200
    try:
        yield
    finally:
        assert ask(settings, body={"manual": False}).status == 200


def render(gateway: Demo, task: str, what: str, **body: object) -> None:
    """Move a task at its provider: `step`, `finish` or `fail`."""
    path = f"{gateway.admin_url}/api/tasks/{task}"
    upstream_id = ask(path, gateway.admin_token).json()["upstream_id"]
    reply = ask(f"{gateway.sim_url}/tasks/{upstream_id}/{what}", body=body)
    assert reply.status == 200, reply


# ---------------------------------------------------------------- the door


def test_a_wrong_token_is_refused_with_what_to_do(console: Console) -> None:
    """Nothing of the console is drawn, and the field that is wrong holds the focus."""
    console.tolerated.append(REFUSED_401)
    console.open()
    page = console.page
    token = page.get_by_label("Admin token", exact=True)
    expect(token).to_be_focused()
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("Enter the admin token.")
    token.fill("not the token")
    token.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("[admin] token in the configuration")
    expect(token).to_be_focused()
    expect(token).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("navigation")).to_have_count(0)
    assert page.evaluate("sessionStorage.length") == 0


def test_signed_in_until_signed_out(console: Console) -> None:
    """A reload stays; the token is in this tab alone; the address is kept through the door."""
    console.sign_in("routes")
    page = console.page
    expect(console.heading).to_have_text("Routes")
    page.reload()
    expect(console.heading).to_have_text("Routes")
    assert page.evaluate("localStorage.length") == 0
    assert console.gateway.admin_token not in page.content()
    page.get_by_role("button", name="Sign out").click()
    expect(console.heading).to_have_text("Sign in")
    assert page.evaluate("sessionStorage.length") == 0
    page.reload()
    expect(console.heading).to_have_text("Sign in")


def test_a_token_that_is_no_longer_taken_leads_back_to_the_door(signed_in: Console) -> None:
    signed_in.tolerated.append(REFUSED_401)
    page = signed_in.page

    def refuse(route: Route) -> None:
        route.fulfill(status=401, json={"error": {"message": "no", "code": "unauthorized"}})

    page.route("**/api/**", refuse)
    expect(page.get_by_role("alert")).to_contain_text("You were signed out")
    assert page.evaluate("sessionStorage.length") == 0


def test_a_gateway_that_does_not_answer_is_told_and_found_again(signed_in: Console) -> None:
    """What was there stays to be read, and nothing has to be pressed."""
    signed_in.tolerated.append("net::ERR_FAILED")
    page = signed_in.page
    expect(page.get_by_text("Requests are taken and rendered.")).to_be_visible()
    page.route("**/api/**", lambda route: route.abort())
    told = page.get_by_text("The gateway does not answer.")
    expect(told).to_be_visible()
    expect(page.get_by_text("Requests are taken and rendered.")).to_be_visible()
    page.unroute("**/api/**")
    expect(told).to_have_count(0)


def test_ready_is_not_well_while_an_upstream_does_not_answer(signed_in: Console) -> None:
    page = signed_in.page
    health = page.get_by_role("region", name="Health")
    expect(health).to_have_class(re.compile(r"\bok\b"))

    def silence(route: Route) -> None:
        answer = route.fetch().json()
        answer["upstreams"][0]["standing"]["mood"] = "broken"
        answer["upstreams"][2]["standing"]["mood"] = "broken"
        route.fulfill(json=answer)

    page.route("**/api/overview", silence)
    expect(health).to_have_class(re.compile(r"\bwarn\b"))
    expect(health).to_contain_text("Requests are taken, but 2 of 3 upstreams do not answer: sim-")
    page.unroute("**/api/overview")
    expect(health).to_have_class(re.compile(r"\bok\b"))


def test_the_tile_of_open_tasks_leads_to_what_it_counts(signed_in: Console) -> None:
    page, gateway = signed_in.page, signed_in.gateway
    with standing_still(gateway):
        queued = make_task(gateway, "queued and counted")
        page.locator(".tile", has_text="Open tasks").click()
        expect(page.get_by_role("radio", name="Open")).to_be_checked()
        row = page.get_by_role("row").filter(has_text=queued)
        expect(row).to_contain_text("Queued")
        render(gateway, queued, "finish")
    expect(row).to_have_count(0)


def test_a_task_no_upstream_took_is_not_sent_for_good(signed_in: Console) -> None:
    page, gateway = signed_in.page, signed_in.gateway
    task = make_task(gateway, "refused or waiting")

    def unsent(status: str) -> Callable[[Route], None]:
        def answer(route: Route) -> None:
            found = route.fetch().json()
            (one,) = [item for item in found["data"] if item["id"] == task]
            found["data"] = [{**one, "status": status, "upstream": None}]
            route.fulfill(json=found)

        return answer

    page.route("**/api/tasks?*", unsent("queued"))
    signed_in.visit("tasks")
    model = page.get_by_role("row").filter(has_text=task).locator(".two-lines .quiet")
    expect(model).to_have_text("not sent yet")
    page.unroute("**/api/tasks?*")
    page.route("**/api/tasks?*", unsent("failed"))
    expect(model).to_have_text("not sent")
    page.unroute_all(behavior="wait")


def test_it_works_under_a_path_of_a_front_proxy(browser: Browser, gateway: Demo) -> None:
    """A proxy that takes its own path off is all it needs: files, API and videos are found."""
    task = make_task(gateway, "seen from afar")
    eventually_sync(lambda: status_of(gateway, task) == "completed")
    with tab(browser, gateway) as console:
        page, front = console.page, "http://ops.example/reelway/"

        def forward(route: Route) -> None:
            path = route.request.url.removeprefix(front)
            route.fulfill(response=route.fetch(url=f"{gateway.admin_url}/{path}"))

        page.route(f"{front}**", forward)
        page.goto(f"{front}#/tasks/{task}")
        page.get_by_label("Admin token", exact=True).fill(gateway.admin_token)
        page.keyboard.press("Enter")
        expect(page.locator(".badge", has_text="Completed")).to_be_visible()
        assert (page.locator("video").get_attribute("src") or "").startswith(f"{front}api/tasks/")
        page.get_by_role("button", name="Copy: the task's id").click()
        expect(page.locator("#polite")).to_have_text("Copied")  # though not a secure context


# ---------------------------------------------------------------- tokens


def test_a_token_is_created_with_limits_and_its_secrets_are_shown_once(
    signed_in: Console,
) -> None:
    """The key works on the clients' port; after the dialog is closed no secret is anywhere."""
    page, gateway = signed_in.page, signed_in.gateway
    signed_in.visit("tokens")
    page.get_by_role("button", name="Create a token").click()
    dialog = page.get_by_role("dialog")
    submit = dialog.get_by_role("button", name="Create a token")
    dialog.get_by_label("Per day (USD)").fill("a lot")
    submit.click()
    expect(dialog.get_by_label("Name")).to_be_focused()
    expect(dialog.get_by_text("Write an amount like 25 or 0.50.")).to_be_visible()
    dialog.get_by_label("Name").fill("film team")
    dialog.get_by_label("Per day (USD)").fill("12.50")
    dialog.get_by_label("Tasks under way").fill("3")
    dialog.get_by_role("button", name="kling-v2-6").click()
    expect(dialog.get_by_role("textbox", name="Models")).to_have_value("kling-v2-6")
    submit.click()

    shown = page.get_by_role("dialog", name="Secrets of “film team”")
    secrets = shown.locator(".secret code").all_text_contents()
    assert len(secrets) == 4
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(shown).to_be_visible()
    shown.get_by_role("button", name="Copy: API key").click()
    expect(page.locator("#polite")).to_have_text(re.compile("Copied|Select the text"))
    assert ask(f"{gateway.url}/v1/models", secrets[0]).status == 200
    shown.get_by_role("button", name="I have saved them").click()
    expect(shown).to_have_count(0)
    for secret in (secrets[0], *secrets[2:]):  # the access key is the token's id
        assert secret not in page.content()

    page.get_by_role("link", name="film team").click()
    expect(signed_in.heading).to_have_text("film team")
    expect(page.get_by_text("$12.50")).to_be_visible()
    page.get_by_role("button", name="Edit").click()
    expect(dialog.get_by_label("Tasks under way")).to_have_value("3")
    dialog.get_by_label("Tasks under way").fill("")
    dialog.get_by_label("Requests a minute").fill("90")
    dialog.get_by_role("button", name="Save changes").click()
    expect(dialog).to_have_count(0)
    limits = ask(f"{gateway.admin_url}/api/tokens/{secrets[1]}", gateway.admin_token).json()[
        "limits"
    ]
    assert (limits["max_in_flight"], limits["requests_per_minute"]) == (None, 90)
    assert limits["budget_day_micro"] == 12_500_000


def test_what_the_gateway_refuses_is_told_beside_its_field(signed_in: Console) -> None:
    signed_in.tolerated.append("the server responded with a status of 400")
    page = signed_in.page
    signed_in.visit("tokens")
    page.get_by_role("button", name="Create a token").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("nobody")
    dialog.get_by_text("More: dialects").click()
    dialog.get_by_label("Client addresses").fill("not-a-network")
    dialog.get_by_role("button", name="Create a token").click()
    addresses = dialog.get_by_label("Client addresses")
    expect(addresses).to_have_attribute("aria-invalid", "true")
    expect(addresses).to_be_focused()
    expect(addresses).to_have_value("not-a-network")


def test_a_token_is_disabled_enabled_rotated_and_revoked(signed_in: Console) -> None:
    """Each after a question; the key stops and works as told."""
    page, gateway = signed_in.page, signed_in.gateway
    made = make_token(gateway, "short-lived")
    models = f"{gateway.url}/v1/models"
    signed_in.visit(f"tokens/{made['id']}")
    dialog = page.get_by_role("dialog")

    def do(label: str) -> None:
        page.get_by_role("main").get_by_role("button", name=label, exact=True).click()
        dialog.get_by_role("button", name=label, exact=True).click()

    do("Disable")
    expect(page.get_by_text("Disabled", exact=True)).to_be_visible()
    eventually_sync(lambda: ask(models, made["token"]).status == 401)
    do("Enable")
    expect(page.get_by_text("Active", exact=True)).to_be_visible()
    eventually_sync(lambda: ask(models, made["token"]).status == 200)

    page.get_by_role("main").get_by_role("button", name="New secrets").click()
    dialog.get_by_label("The old token stays good for").select_option("0")
    dialog.get_by_role("button", name="New secrets").click()
    renewed = dialog.locator("[data-secret=token] code").text_content() or ""
    dialog.get_by_role("button", name="I have saved them").click()
    eventually_sync(lambda: ask(models, made["token"]).status == 401)
    assert ask(models, renewed).status == 200

    page.get_by_role("main").get_by_role("button", name="Revoke").click()
    dialog.get_by_role("button", name="Cancel").click()
    assert ask(models, renewed).status == 200
    do("Revoke")
    expect(page.get_by_text("Revoked", exact=True)).to_be_visible()
    expect(page.get_by_role("main").get_by_role("button", name="Revoke")).to_have_count(0)
    eventually_sync(lambda: ask(models, renewed).status == 401)


def test_a_key_that_was_revoked_is_not_offered_to_try(signed_in: Console) -> None:
    """Nor one that is disabled, until it is enabled again."""
    page, gateway = signed_in.page, signed_in.gateway
    made = make_token(gateway, "soon revoked")
    dialog = page.get_by_role("dialog")
    offered = page.get_by_label("API key").get_by_role("option", name="soon revoked")

    def do(label: str) -> None:
        signed_in.visit(f"tokens/{made['id']}")
        page.get_by_role("main").get_by_role("button", name=label, exact=True).click()
        dialog.get_by_role("button", name=label, exact=True).click()

    do("New secrets")
    dialog.get_by_role("button", name="Try it with this key").click()
    expect(offered).to_have_count(1)
    for label, count in (("Disable", 0), ("Enable", 1), ("Revoke", 0)):
        do(label)
        expect(dialog).to_have_count(0)
        signed_in.visit("try")
        expect(offered).to_have_count(count)
    expect(page.get_by_label("API key")).to_have_value("")


def test_an_owner_is_given_limits(signed_in: Console) -> None:
    page, gateway = signed_in.page, signed_in.gateway
    owner = make_token(gateway, "studio")["owner"]
    signed_in.visit("owners")
    row = page.get_by_role("row").filter(has_text=owner)
    row.get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Per month (USD)").fill("300")
    dialog.get_by_label("Tasks under way by model").fill("sora-*=5")
    dialog.get_by_role("button", name="Save changes").click()
    expect(row).to_contain_text("$300.00")
    known = ask(f"{gateway.admin_url}/api/owners/{owner}", gateway.admin_token).json()
    assert known["limits"]["budget_month_micro"] == 300_000_000
    assert known["models"] == [{"model": "sora-*", "max_in_flight": 5}]


# ---------------------------------------------------------------- a video


def test_a_video_is_made_watched_and_played(signed_in: Console) -> None:
    """With the key just made in this tab: its progress is seen, it plays and seeks by ranges, its
    time line tells every step, and the download is the file."""
    page, gateway = signed_in.page, signed_in.gateway
    parts: list[Response] = []
    page.on("response", lambda reply: parts.append(reply) if "/content?" in reply.url else None)
    signed_in.visit("tokens")
    page.get_by_role("button", name="Create a token").click()
    page.get_by_role("dialog").get_by_label("Name").fill("cinema")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Try it with this key").click()
    expect(page.get_by_label("API key")).to_contain_text("cinema")

    page.get_by_role("button", name="Make the video").click()
    expect(page.get_by_label("Prompt")).to_be_focused()  # it says nothing yet
    page.get_by_label("Prompt").fill("A calico cat playing a piano on stage")
    page.get_by_label("Model").select_option("sora-2")
    page.get_by_label("Length").select_option("4")
    with standing_still(gateway):
        page.get_by_role("button", name="Make the video").click()
        link = page.get_by_role("link", name="Open the task")
        task = (link.get_attribute("href") or "").removeprefix("#/tasks/")
        ring = page.locator(".ring")
        for progress in (20, 70):
            render(gateway, task, "step", state="in_progress", progress=progress)
            expect(ring).to_have_attribute("aria-valuenow", str(progress))
        render(gateway, task, "finish")
    expect(page.locator(".badge", has_text="Completed")).to_be_visible()

    video = page.locator("video")
    play_and_seek(video)
    assert {reply.status for reply in parts} == {206}
    assert all(
        re.fullmatch(rf"bytes \d+-\d+/{CLIP.stat().st_size}", reply.headers["content-range"])
        for reply in parts
    )

    page.get_by_role("link", name="Open the task").click()
    expect(signed_in.heading).to_have_text("Task")
    events = page.locator(".line-event")
    expect(events).to_have_text(["Written down", "Sent", "Accepted", "Rendering", "Completed"])
    expect(page.locator(".line-pause")).to_have_text([re.compile(r"^[\d.]+ m?s$")] * 4)
    expect(page.get_by_text("$0.40", exact=True).first).to_be_visible()
    with page.expect_download() as fetched:
        page.get_by_role("link", name="Download").click()
    assert Path(fetched.value.path()).read_bytes() == CLIP.read_bytes()


def play_and_seek(video: Locator) -> None:
    """It plays, and a jump ahead arrives where it was aimed."""
    video.evaluate("video => { video.muted = true; return video.play(); }")
    arrived = video.evaluate(
        """video => new Promise((resolve, reject) => {
            video.onerror = () => reject(video.error.message);
            video.onseeked = () => resolve(video.currentTime);
            video.currentTime = 3;
        })"""
    )
    assert arrived == pytest.approx(3, abs=0.5)


def test_what_the_clients_port_refuses_is_shown_as_a_client_gets_it(signed_in: Console) -> None:
    page = signed_in.page
    signed_in.visit("try")
    page.get_by_label("API key").fill("rw_not_akey")
    page.get_by_label("Prompt").fill("A cat")
    page.get_by_role("button", name="Make the video").click()
    expect(page.get_by_role("alert")).to_contain_text("The gateway refused it (401)")


def test_a_task_that_fails_says_why_and_what_to_do(signed_in: Console) -> None:
    page, gateway = signed_in.page, signed_in.gateway
    with standing_still(gateway):
        task = make_task(gateway, "a video that fails")
        render(gateway, task, "fail", code="moderation_blocked")
    signed_in.visit(f"tasks/{task}")
    expect(page.locator(".badge", has_text="Failed")).to_be_visible()
    expect(page.locator(".callout")).to_contain_text("Another prompt may pass.")
    expect(page.get_by_text("There is no video: the task failed.")).to_be_visible()


def test_text_from_clients_is_only_ever_text(signed_in: Console) -> None:
    """Markup in a prompt and in a name is shown as it was written, and does nothing."""
    page, gateway = signed_in.page, signed_in.gateway
    markup = "<img src=x onerror=\"document.title='taken'\"><script>alert(1)</script>"
    task = make_task(gateway, markup)
    make_token(gateway, "<b>bold</b>")
    for place in ("", "tasks", f"tasks/{task}"):
        signed_in.visit(place)
        expect(page.get_by_text(markup).first).to_be_visible()
    signed_in.visit("tokens")
    expect(page.get_by_text("<b>bold</b>")).to_be_visible()
    assert page.locator("main img, main script, main b").count() == 0
    assert "taken" not in page.title()


# ---------------------------------------------------------------- looking


def test_tasks_are_filtered_and_turned_page_by_page(signed_in: Console) -> None:
    """The filter is in the address; what is on the next page is not on this one."""
    page, gateway = signed_in.page, signed_in.gateway
    for number in range(27):
        make_task(gateway, f"number {number}", model="jimeng_t2v_v30")
    signed_in.visit("tasks")
    page.get_by_label("Model", exact=True).fill("jimeng_t2v_v30")
    expect(page).to_have_url(re.compile("model=jimeng_t2v_v30"))
    expect(page.get_by_role("rowheader").first).to_contain_text("number 26")
    expect(page.get_by_role("rowheader")).to_have_count(25)
    page.get_by_role("button", name="Older").click()
    expect(page.get_by_role("rowheader").first).to_contain_text("number 1")
    expect(page.get_by_role("rowheader")).to_have_count(2)
    page.get_by_role("button", name="Newer").click()
    expect(page.get_by_role("rowheader").first).to_contain_text("number 26")
    page.get_by_label("Owner", exact=True).fill("nobody at all")
    expect(page.get_by_text("No task fits these filters")).to_be_visible()
    page.get_by_role("button", name="Clear the filters").click()
    expect(page.get_by_label("Owner", exact=True)).to_have_value("")
    page.get_by_role("radio", name="Completed").check()
    expect(page).to_have_url(re.compile("status=completed"))
    expect(page.locator("tbody .badge", has_text="Rendering")).to_have_count(0)


def test_a_hidden_tab_asks_nothing_until_it_is_seen_again(browser: Browser, gateway: Demo) -> None:
    """By the page's own clock, which the test moves: a minute hidden is not one request."""
    with tab(browser, gateway) as console:
        page = console.page
        page.clock.install()
        console.sign_in()
        expect(page.get_by_text("Requests are taken and rendered.")).to_be_visible()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))

        with page.expect_request("**/api/overview"):
            page.clock.run_for(5000)
        page.wait_for_load_state("networkidle")
        set_hidden(page, "true")
        page.clock.run_for(20_000)  # what was under way comes in
        asked.clear()
        page.clock.run_for(60_000)
        assert asked == []
        with page.expect_request("**/api/overview"):
            set_hidden(page, "false")


def test_the_usage_chart_is_read_by_keyboard_and_has_its_table(signed_in: Console) -> None:
    """Every day of the chart is said in words; the ledger is found in balance."""
    page, gateway = signed_in.page, signed_in.gateway
    task = make_task(gateway, "one for the books")
    eventually_sync(lambda: status_of(gateway, task) == "completed")
    signed_in.visit("usage")
    days = page.get_by_role("slider", name="Spend: choose a day")
    expect(days).to_have_attribute("aria-valuenow", "30")
    today = days.get_attribute("aria-valuetext")
    assert today is not None
    assert re.search(r"\$\d+\.\d\d", today)
    assert "sora-2" in today
    days.press("ArrowLeft")
    expect(days).to_have_attribute("aria-valuenow", "29")
    assert "$0.00" in (days.get_attribute("aria-valuetext") or "")
    days.press("End")
    expect(days).to_have_attribute("aria-valuenow", "30")
    expect(page.get_by_role("row").filter(has_text="sora-2").first).to_contain_text("$")
    page.get_by_role("radio", name="7 days").check()
    expect(days).to_have_attribute("aria-valuemax", "7")
    page.get_by_role("button", name="Check that it balances").click()
    balanced = re.compile(r"^It balances: \d+ tasks? compared\.$")
    expect(page.get_by_role("main").get_by_text(balanced)).to_be_visible()


def status_of(gateway: Demo, task: str) -> str:
    return str(ask(f"{gateway.url}/v1/videos/{task}", gateway.token).json()["status"])


# ---------------------------------------------------------------- the operator's own


def test_a_credential_is_tested(signed_in: Console) -> None:
    """The simulated provider is asked something unpaid, and what it came to is a sentence."""
    signed_in.visit("upstreams")
    page = signed_in.page
    page.get_by_role("button", name="Test sim-kling/demo").click()
    finding = page.get_by_role("region", name="sim-kling").locator(".finding")
    expect(finding).to_have_class(re.compile(r"\bok\b"))
    expect(finding).to_contain_text("accepts the key")


def test_the_configuration_is_searched_and_read_again(signed_in: Console) -> None:
    """A mistake in the file is told with its line, and the old configuration stays in force."""
    page, gateway = signed_in.page, signed_in.gateway
    signed_in.visit("config")
    assert gateway.admin_token not in page.content()
    page.get_by_label("Search keys, values and origins").fill("poll_first")
    expect(page.get_by_role("rowheader")).to_have_text(["timeouts.poll_first_s"])
    page.get_by_role("button", name="Read it again").click()
    told = page.locator(".callout")
    expect(told).to_contain_text("was read again and is in force")
    before = gateway.config.read_text()
    gateway.config.write_text(before + "\n[limits]\nnonsense = 1\n")
    try:
        page.get_by_role("button", name="Read it again").click()
        expect(told).to_contain_text("the old configuration stays in force")
        line = before.count("\n") + 3
        expect(told).to_contain_text(f"config.toml:{line}: limits.nonsense")
    finally:
        gateway.config.write_text(before)
    page.get_by_role("button", name="Read it again").click()
    expect(told).to_contain_text("was read again and is in force")


def test_a_reload_by_somebody_else_is_told_with_its_mistakes_and_what_waits(
    signed_in: Console,
) -> None:
    """On the page of the configuration, and in one line on the first."""
    page, gateway = signed_in.page, signed_in.gateway
    before = gateway.config.read_text()

    def reload() -> None:
        url = f"{gateway.admin_url}/api/reload"
        assert ask(url, gateway.admin_token, method="POST").status == 200

    told = page.locator("main .callout")
    gateway.config.write_text(before + "\n[limits]\nnonsense = 1\n")
    try:
        reload()
        signed_in.visit("config")
        expect(told).to_have_class(re.compile(r"\bbad\b"))
        expect(told).to_contain_text(f"config.toml:{before.count(chr(10)) + 3}: limits.nonsense")
        page.get_by_role("navigation").get_by_role("link", name="Overview").first.click()
        expect(told).to_have_class(re.compile(r"\bwarn\b"))
        expect(told).to_contain_text("could not be read again")
        gateway.config.write_text(before + "\n[limits]\nconnections = 99\n")
        reload()
        expect(told).to_contain_text("1 changed setting waits for a restart.")
        told.get_by_role("link", name="Details").click()
        expect(told).to_have_class(re.compile(r"\bwarn\b"))
        expect(told).to_contain_text("limits.connections")
    finally:
        gateway.config.write_text(before)
        reload()
    signed_in.visit("")
    expect(told).to_have_count(0)


def test_routes_are_listed_in_their_order_and_searched(signed_in: Console) -> None:
    page = signed_in.page
    signed_in.visit("routes")
    expect(page.locator(".route").first).to_contain_text("sora-2-on-kling")
    page.get_by_label("Search models and upstreams").fill("sim-jimeng")
    models = page.locator(".route-model")
    expect(models).to_have_text(["sora-2-on-jimeng", "jimeng_t2v_v30", "jimeng_*"])
    page.get_by_label("Search models and upstreams").fill("no such thing")
    expect(page.get_by_text("No route fits")).to_be_visible()


def test_a_webhook_that_finds_no_receiver_is_sent_again(signed_in: Console) -> None:
    page, gateway = signed_in.page, signed_in.gateway
    task = make_task(gateway, "tell me", webhook="https://receiver.invalid/hook")
    signed_in.visit("webhooks")
    row = page.get_by_role("row").filter(has_text=task)
    expect(row).to_contain_text("https://receiver.invalid/hook")
    row.get_by_role("button", name="Send again").click()
    expect(page.locator(".toast")).to_have_text("It is being sent again.")


# ---------------------------------------------------------------- for everybody


def test_the_keyboard_is_enough(console: Console) -> None:
    """Sign in, skip the navigation, walk it, open a dialog and leave it: nothing is pressed by
    mouse, the focus is always seen, and comes back to where it was."""
    page, keyboard = console.page, console.page.keyboard
    console.open()
    expect(page.get_by_label("Admin token", exact=True)).to_be_focused()
    keyboard.type(console.gateway.admin_token)
    keyboard.press("Enter")
    expect(console.heading).to_have_text("Overview")
    page.evaluate("document.activeElement.blur()")
    keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    for place, name in list(PLACES.items())[1:]:
        page.evaluate("document.activeElement.blur()")
        link = page.get_by_role("navigation").get_by_role("link", name=name).first
        tab_to(page, link)
        keyboard.press("Enter")
        expect(console.heading).to_have_text(name)
        expect(console.heading).to_be_focused()
        expect(link).to_have_attribute("aria-current", "page")
        assert page.url.endswith(f"#/{place}")
        expect(page).to_have_title(f"{name} · Reelway")

    console.visit("tokens")
    create = page.get_by_role("button", name="Create a token")
    tab_to(page, create)
    keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Name")).to_be_focused()
    for _ in range(60):  # more than it has controls: the focus does not leave it
        keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('dialog, body').tagName") in (
            "DIALOG",
            "BODY",  # the browser's own frame, between the last control and the first
        )
    keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(create).to_be_focused()


def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until it has the focus; each stop on the way shows where it is."""
    for _ in range(80):
        page.keyboard.press("Tab")
        assert page.evaluate(
            """() => {
                const at = document.activeElement;
                const shown = [at, at.nextElementSibling].filter(Boolean).map(
                    (node) => [getComputedStyle(node), getComputedStyle(node, "::after")]);
                return at === document.body || shown.flat().some(
                    (style) => style.outlineStyle !== "none" && style.outlineWidth !== "0px");
            }"""
        ), page.evaluate("document.activeElement.outerHTML")
        if wanted.evaluate("node => node === document.activeElement"):
            return
    raise AssertionError(f"Tab never came to {wanted}")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_follows_the_system_until_one_is_chosen(
    browser: Browser, gateway: Demo, theme: Literal["light", "dark"]
) -> None:
    other = {"light": "dark", "dark": "light"}[theme]
    ground = {"light": "rgb(245, 246, 248)", "dark": "rgb(12, 14, 18)"}
    with tab(browser, gateway, color_scheme=theme) as console:
        console.sign_in()
        body = console.page.locator("body")
        expect(body).to_have_css("background-color", ground[theme])
        console.page.get_by_role("radio", name=other.capitalize()).check()
        expect(body).to_have_css("background-color", ground[other])
        console.page.reload()
        expect(body).to_have_css("background-color", ground[other])
        console.page.get_by_role("radio", name="As the system").check()
        expect(body).to_have_css("background-color", ground[theme])


def test_it_speaks_the_browsers_language_until_one_is_chosen(
    browser: Browser, gateway: Demo
) -> None:
    with tab(browser, gateway, locale="zh-CN") as console:
        page = console.page
        console.open()
        expect(console.heading).to_have_text("登录")
        expect(page.locator("html")).to_have_attribute("lang", "zh")
        page.get_by_role("radio", name="EN").check()
        expect(console.heading).to_have_text("Sign in")
        expect(page.locator("html")).to_have_attribute("lang", "en")
        console.sign_in()
        page.reload()
        expect(console.heading).to_have_text("Overview")
        page.get_by_role("radio", name="中文").check()
        expect(console.heading).to_have_text("概览")


EVENTS = (
    "reserved",
    "sent attempt 1 to up/a",
    "sent attempt 2 to up/b: attempt 1 was refused, 429",
    "waiting in the queue of up",
    "refused, 429: waiting again",
    "unconfirmed: whoever sent it is gone",
    "unconfirmed for too long",
    "accepted as 4015",
    "found as 4015",
    "never sent",
    "the upstream does not know it",
    "gave up waiting",
    "cancelled at the provider",
    "deleted by its owner",
    "completed",
)
ENGLISH = re.compile(r"\b(?!up\b)[a-z]{2,}")


def test_what_the_gateway_writes_is_said_in_chinese(browser: Browser, gateway: Demo) -> None:
    """A task's history, stage and operation; where a setting comes from; a price's cases."""
    task = make_task(gateway, "中文")

    def line(route: Route) -> None:
        found = route.fetch().json()
        (first, *_) = found["timeline"]
        found["timeline"] = [{**first, "event": event} for event in EVENTS]
        route.fulfill(json=found)

    def price(route: Route) -> None:
        found = route.fetch().json()
        found["data"][0]["price"] = {"per_video": {"720p+audio": "0.28", "other": "0.50"}}
        route.fulfill(json=found)

    with tab(browser, gateway, locale="zh-CN") as console:
        page = console.page
        console.open()
        page.locator("#admin-token").fill(gateway.admin_token)
        page.locator("#admin-token").press("Enter")
        expect(page.locator("#main")).to_be_visible()
        page.route(f"**/api/tasks/{task}", line)
        console.visit(f"tasks/{task}")
        entries = page.locator(".line-entry")
        expect(entries).to_have_count(len(EVENTS))
        for said, event in zip(entries.all_inner_texts(), EVENTS, strict=True):
            assert not ENGLISH.search(said), event
        facts = page.locator(".fact")
        expect(facts.filter(has_text="操作").locator("dd")).to_have_text("创建")
        expect(facts.filter(has_text="阶段").locator("dd")).not_to_have_text(ENGLISH)
        page.route("**/api/routes", price)
        console.visit("routes")
        cases = page.locator(".route-facts").first
        expect(cases).to_contain_text(re.compile(r"720p\+有声 .*0\.28, 其他 .*0\.50"))
        console.visit("config")
        row = page.get_by_role("row").filter(has_text="admin.token")
        expect(row).to_contain_text("（已隐藏）")
        expect(page.get_by_role("row").filter(has_text="默认值").first).to_be_visible()
        page.unroute_all(behavior="wait")


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_no_page_is_wider_than_a_small_phone(browser: Browser, gateway: Demo, locale: str) -> None:
    """360 px: no page scrolls sideways, nor does a dialog or the menu."""
    task = make_task(gateway, "a long prompt without any end " * 12 + "x" * 200)
    token = make_token(gateway, "n" * 60)["id"]
    eventually_sync(lambda: status_of(gateway, task) == "completed")
    with tab(browser, gateway, locale=locale, viewport=NARROW) as console:
        page = console.page
        console.open()
        page.locator("#admin-token").fill(gateway.admin_token)
        assert_no_wider(page)
        page.locator("#admin-token").press("Enter")
        expect(page.locator("#main")).to_be_visible()
        for place in (*PLACES, f"tasks/{task}", f"tokens/{token}", "no/such/page"):
            console.visit(place)
            assert_no_wider(page)
        console.visit("tokens")
        page.locator(".page-head .button").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert_no_wider(page)
        page.keyboard.press("Escape")
        page.locator(".top .icon-button").click()
        expect(page.get_by_role("dialog").get_by_role("link").nth(3)).to_be_visible()
        assert_no_wider(page)
        page.get_by_role("dialog").get_by_role("link").nth(1).click()
        expect(page.get_by_role("dialog")).to_have_count(0)


def assert_no_wider(page: Page) -> None:
    too_wide = page.evaluate(
        """() => [document.documentElement, ...document.querySelectorAll("dialog")]
            .filter((node) => node.scrollWidth > node.clientWidth)
            .map((node) => [node.tagName, node.scrollWidth, location.hash])"""
    )
    assert too_wide == []


def set_hidden(page: Page, hidden: str) -> None:
    page.evaluate(
        f"""() => {{
            Object.defineProperty(document, "hidden", {{ value: {hidden}, configurable: true }});
            document.dispatchEvent(new Event("visibilitychange"));
        }}"""
    )
