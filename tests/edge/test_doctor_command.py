"""`reelway doctor` as an operator runs it: a process of its own, beside a gateway or alone."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from email.utils import formatdate
from itertools import count
from pathlib import Path

import pytest
from aiohttp import web
from yarl import URL

from proxy.cli.doctor_proxy_check import judge, judge_address
from proxy.model import CredentialHealth
from proxy.store import Store
from proxy.store.capabilities import latency
from tests.rig.house import House
from tests.rig.programs import Ended, run
from tests.rig.relay import make_certificate

SECRET = b"x" * 32


async def doctor(path: Path, *more: str) -> Ended:
    arguments = ("doctor", "--config", str(path), *more)
    return await asyncio.to_thread(run, *arguments, cwd=path.parent)


def findings(ended: Ended) -> list[tuple[str, str]]:
    """Level and text of every line."""
    found = [line.split(None, 1) for line in ended.out.splitlines()]
    assert {level for level, _ in found} <= {"ok", "warning", "error"}, ended
    return [(level, text) for level, text in found]


def about(ended: Ended, start: str) -> tuple[str, str]:
    """The one finding whose text begins like this."""
    [told] = [found for found in findings(ended) if found[1].startswith(start)]
    return told


def operators(house: House, *changes: tuple[str, str]) -> Path:
    """The house's file as its operator has it, with the admin port it has got; each change is a
    text in it and what stands there instead."""
    text = house.config_path.read_text()
    place = URL(house.server.admin_url).authority
    for old, new in (('listen = "127.0.0.1:0"', f'listen = "{place}"'), *changes):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = house.config_path.with_name("operators.toml")
    path.write_text(text)
    return path


def alone(folder: Path, *sections: str, redis: str = "embedded") -> Path:
    """A file of no gateway that runs: nothing of it listens on these ports."""
    path = folder / "config.toml"
    head = f"""\
[server]
public_url = "http://127.0.0.1:1"
secrets = ["a signing secret of at least 32 bytes"]
[admin]
listen = "unix:{folder / "admin"}"
[redis]
url = "{redis}"
"""
    path.write_text("\n".join([head, *sections]))
    return path


def upstream(base_url: str, name: str = "far") -> str:
    return f"""\
[[upstreams]]
name = "{name}"
provider = "openai"
base_url = "{base_url}"
credentials = [{{ name = "a", api_key = "sk-x" }}]
[[routes]]
model = "sora-2-{name}"
upstream = "{name}"
"""


@asynccontextmanager
async def answering(
    status: int,
    body: str = "{}",
    tls: ssl.SSLContext | None = None,
    **headers: str,
) -> AsyncIterator[str]:
    """The URL of a server that says this to everything."""

    async def say(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=status, text=body, headers=headers)

    loop = asyncio.get_running_loop()
    async with await loop.create_server(web.Server(say), "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*make_certificate(tmp_path))
    return context


# ---------------------------------------------------------------- beside a gateway that runs

ALL = (
    "redis: ",
    "redis: changes are logged",
    "redis: nothing is evicted",
    "redis: 0% of maxmemory",
    "redis: durability is local",
    "redis: a round trip takes",
    "upstream sim-openai/a",
    "upstream sim-kling/a",
    "upstream sim-jimeng/a",
    "public_url: http://127.0.0.1:",
    "public_url: answers come through at once",
    "public_url: the Host header arrives as",
    "public_url: nothing is added",
    "[server] state_dir:",
    "limits:",
)


def begin_like(texts: Sequence[str], starts: Sequence[str]) -> None:
    assert len(texts) == len(starts), texts
    for text, start in zip(texts, starts, strict=True):
        assert text.startswith(start)


async def test_of_a_gateway_that_runs_everything_is_told(house: House) -> None:
    path = operators(house)
    ended = await doctor(path)
    assert (ended.status, ended.err) == (0, "")
    begin_like([text for _, text in findings(ended)], ALL)
    for name in ("openai", "kling", "jimeng"):
        level, text = about(ended, f"upstream sim-{name}/a")
        assert (level, "accepts the key" in text) == ("ok", True)
    assert re.search(r"\d+ open files for the gateway that runs, \d+ are open", ended.out)


async def test_as_json_it_is_one_document_of_the_same(house: House) -> None:
    ended = await doctor(operators(house), "--json")
    assert (ended.status, ended.err, ended.out.count("\n")) == (0, "", 1)
    told = json.loads(ended.out)
    assert {tuple(each) for each in told} == {("level", "text")}
    assert {each["level"] for each in told} <= {"ok", "warning"}
    begin_like([each["text"] for each in told], ALL)


async def test_a_disk_too_small_for_the_uploads_that_may_come_is_a_warning(house: House) -> None:
    path = operators(house, ("[limits]\n", f"[limits]\nspool_bytes = {1 << 60}\n"))
    ended = await doctor(path)
    level, text = about(ended, "[server] state_dir:")
    assert (ended.status, level) == (0, "warning")
    assert f"allows {1 << 40} MiB of uploads" in text


async def test_with_room_for_all_of_them_the_disk_is_well(house: House) -> None:
    sizes = "upload_bytes = 1\njson_bytes = 1\n"
    changes = ("[limits]\n", f"[limits]\n{sizes}spool_bytes = 1\n")
    level, text = about(await doctor(operators(house, changes)), "[server] state_dir:")
    assert (level, text.endswith("MiB free")) == ("ok", True)


async def test_health_of_a_ready_gateway_is_exit_0(house: House) -> None:
    path = str(operators(house))
    ended = await asyncio.to_thread(run, "health", "--config", path, cwd=house.config_path.parent)
    assert ended == Ended(0, "ready\n", "")


# ---------------------------------------------------------------- Redis


async def test_without_redis_the_rest_is_looked_at_all_the_same(
    tmp_path: Path, free_port: int
) -> None:
    redis = f"redis://me:hidden-word@127.0.0.1:{free_port}/0"
    async with answering(404, '{"error": {"message": "no such video"}}') as url:
        path = alone(tmp_path, upstream(url), redis=redis)
        plain, as_json = await doctor(path), await doctor(path, "--json")
    assert (plain.status, plain.err) == (1, "")
    level, text = findings(plain)[0]
    assert level == "error"
    assert text == (
        f"redis: 127.0.0.1:{free_port}/0 does not answer (connection refused): every submit is "
        "refused; start it, or correct [redis] url"
    )
    starts = (
        *("redis:", "upstream far/a", "public_url: http", "public_url: nobody"),
        *("[server] state_dir:", "limits:"),
    )
    begin_like([text for _, text in findings(plain)], starts)
    assert about(plain, "upstream far/a")[0] == "ok"
    assert (as_json.status, as_json.err) == (1, "")
    assert [each["level"] for each in json.loads(as_json.out)].count("error") == 1
    begin_like([each["text"] for each in json.loads(as_json.out)], starts)
    assert "hidden-word" not in plain.out + as_json.out


async def test_without_a_primary_the_sentinels_are_named(tmp_path: Path, free_port: int) -> None:
    redis = f"redis+sentinel://127.0.0.1:{free_port}/main"
    ended = await doctor(alone(tmp_path, redis=redis))
    level, text = findings(ended)[0]
    assert (ended.status, level) == (1, "error")
    assert text.startswith(
        f"redis: 127.0.0.1:{free_port}/main does not answer (No master found for 'main'): "
    )


async def test_a_state_directory_that_cannot_be_made_ends_nothing(tmp_path: Path) -> None:
    """The embedded store and the secrets are kept there."""
    (tmp_path / "file").write_text("")
    path = alone(tmp_path)
    text = path.read_text()
    secret = re.compile(r"^secrets = .*$", re.MULTILINE)
    path.write_text(secret.sub(f'state_dir = "{tmp_path / "file" / "state"}"', text))
    ended = await doctor(path)
    assert (ended.status, ended.err) == (1, "")
    assert [text.partition(":")[0] for level, text in findings(ended) if level == "error"] == [
        "redis",
        "[server] secrets",
    ]
    assert about(ended, "limits:")


@pytest.mark.parametrize(
    ("ms", "level", "words"),
    [
        (2, "ok", "takes 2.0 ms"),
        (10, "ok", "takes 10.0 ms"),
        (25, "warning", "takes 25.0 ms, above 10 ms: every request waits for one"),
    ],
)
async def test_a_store_that_is_far_away_is_a_warning(
    store: Store, ms: int, level: str, words: str
) -> None:
    """By a clock that is read before and after each round trip."""
    ticks = count(0, ms)
    found = await latency(store.batch, lambda: next(ticks) / 1000)
    assert (found.level, words in found.text) == (level, True)


async def test_one_slow_answer_of_redis_does_not_count(store: Store) -> None:
    """The first of them takes 40 ms, the others 1."""
    ticks = iter([0, 40, *range(40, 400)])
    found = await latency(store.batch, lambda: next(ticks) / 1000)
    assert (found.level, found.text) == ("ok", "redis: a round trip takes 1.0 ms")


# ---------------------------------------------------------------- upstreams


@pytest.mark.parametrize(("ahead_s", "way"), [(600, "ahead of"), (-600, "behind")])
async def test_an_upstream_with_another_clock_is_a_warning(
    tmp_path: Path, free_port: int, ahead_s: int, way: str
) -> None:
    date = formatdate(time.time() + ahead_s, usegmt=True)
    redis = f"redis://127.0.0.1:{free_port}"
    async with answering(404, '{"error": {"message": "no such video"}}', Date=date) as url:
        ended = await doctor(alone(tmp_path, upstream(url), redis=redis))
    level, text = about(ended, "upstream far/a")
    assert level == "warning"
    told = re.search(r"Its clock is (\d+) s (ahead of|behind) ours: set this machine's", text)
    assert told is not None
    assert told[2] == way
    assert abs(int(told[1]) - 600) < 60  # a busy machine asks later than the date was made


async def test_upstreams_that_cannot_be_reached_say_why(
    tmp_path: Path, free_port: int, self_signed: ssl.SSLContext
) -> None:
    refusing = f"http://127.0.0.1:{free_port}"
    nameless = "http://provider.invalid"
    async with answering(404, tls=self_signed) as untrusted:
        path = alone(
            tmp_path,
            upstream(refusing, "refusing"),
            upstream(nameless, "nameless"),
            upstream(untrusted, "untrusted"),
            redis=f"redis://127.0.0.1:{free_port}",
        )
        ended = await doctor(path)
    for name, url, why in (
        ("refusing", refusing, "connection refused"),
        ("nameless", nameless, "the name is not known ("),
        ("untrusted", untrusted, "its certificate is refused: self-signed certificate"),
    ):
        level, text = about(ended, f"upstream {name}/a")
        assert level == "error"
        assert f"{url} cannot be asked: {why}" in text
        assert text.endswith("; look at base_url and the way there.")


# ---------------------------------------------------------------- what stands in front


async def test_an_address_that_redirects_is_named(tmp_path: Path) -> None:
    async with answering(308, Location="https://other.example/") as url:
        bad = [each for each in await judge(url, SECRET, time.time, ()) if each.level == "error"]
    [told] = bad
    assert told.text == (
        "public_url: redirects to https://other.example/: clients send no key there; name that "
        "address"
    )


async def test_a_certificate_no_client_takes_is_an_error(self_signed: ssl.SSLContext) -> None:
    async with answering(200, tls=self_signed) as url:
        told = (await judge(url, SECRET, time.time, ()))[-1]
    assert told.level == "error"
    assert told.text == "public_url: its certificate is refused: self-signed certificate"


@pytest.mark.parametrize(
    ("public_url", "level", "words"),
    [
        ("https://video.example.com", "ok", "public_url: https://video.example.com"),
        ("https://[2606:4700::1111]:8443/v", "ok", "public_url: https://"),
        ("http://video.example.com", "warning", "is not https: keys and videos travel in the"),
        ("https://localhost", "warning", "no address on the internet"),
        ("https://video.internal", "warning", "no address on the internet"),
        ("http://10.0.0.7:8080", "warning", "no address on the internet"),
    ],
)
def test_an_address_is_judged_by_its_looks(public_url: str, level: str, words: str) -> None:
    told = judge_address(public_url)
    assert (told.level, words in told.text) == (level, True)


# ---------------------------------------------------------------- open files


@pytest.mark.parametrize(
    ("page", "level", "words"),
    [
        (
            "process_max_fds 8192.0\nprocess_open_fds 41.0\n",
            "ok",
            "limits: 8192 open files for the gateway that runs, 41 are open",
        ),
        (
            "# TYPE process_max_fds gauge\nprocess_max_fds 4095.0\n",
            "warning",
            "limits: 4095 open files for the gateway that runs. A stream takes up to four",
        ),
        (
            "process_max_fds 10000.0\nprocess_open_fds 8001.0\n",
            "warning",
            "8001 are open, so they run out. A stream takes up to four, so raise it: LimitNOFILE",
        ),
    ],
    ids=["enough", "few", "run out"],
)
async def test_the_limit_is_that_of_the_gateway_which_runs(
    tmp_path: Path, free_port: int, page: str, level: str, words: str
) -> None:
    """On a unix socket; the shell has another limit."""

    async def say(request: web.BaseRequest) -> web.Response:
        return web.Response(status=200 if request.path == "/metrics" else 404, text=page)

    path = alone(tmp_path, redis=f"redis://127.0.0.1:{free_port}")
    loop = asyncio.get_running_loop()
    async with await loop.create_unix_server(web.Server(say), tmp_path / "admin"):
        told = about(await doctor(path), "limits:")
    assert (told[0], words in told[1]) == (level, True), told


async def test_of_several_workers_each_has_its_own(tmp_path: Path, free_port: int) -> None:
    """The page has their sum."""
    async with answering(200, "process_max_fds 8192.0\n") as url:
        path = alone(tmp_path, redis=f"redis://127.0.0.1:{free_port}")
        text = path.read_text().replace("[server]\n", "[server]\nworkers = 4\n")
        path.write_text(text.replace(f"unix:{tmp_path / 'admin'}", URL(url).authority))
        level, told = about(await doctor(path), "limits:")
    assert level == "warning"
    assert told.startswith("limits: 2048 open files for each of 4 workers. ")


async def test_without_a_gateway_it_is_that_of_this_shell(tmp_path: Path, free_port: int) -> None:
    redis = f"redis://127.0.0.1:{free_port}"
    ended = await doctor(alone(tmp_path, redis=redis))
    place = f"unix:{tmp_path / 'admin'}"
    assert f"open files, of this shell; no gateway answers on [admin] listen, {place}" in ended.out
    async with answering(404, "process_max_fds many\n") as url:
        path = alone(tmp_path, redis=redis)
        path.write_text(path.read_text().replace(place, URL(url).authority))
        ended = await doctor(path)
    assert "of this shell; what answers on [admin] listen" in about(ended, "limits:")[1]


async def test_an_upstream_whose_keys_are_all_out_is_an_error(house: House) -> None:
    """The provider's answer to doctor may be fine: what the gateway holds counts as well."""
    out = CredentialHealth("out", 1, 4_000_000_000_000, "1102")
    assert await house.server.store.credentials.swap("sim-kling/a", CredentialHealth(), out)
    ended = await doctor(operators(house))
    assert ended.status == 1
    assert ("error", "upstream sim-kling: is out (1102): it takes no submit") in findings(ended)
