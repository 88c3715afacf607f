"""nginx with the file we ship: what clients are promised holds behind it too."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx2
import jwt
import openai
import pytest

from proxy.config import Config, load
from proxy.gateway.listener import bind
from proxy.providers import PROVIDERS
from proxy.server.bootstrap import signing_secrets
from proxy.server.worker import Server
from proxy.signing import sign_probe
from proxy.sim import Fault, pattern, pattern_sha256
from tests.rig.downloads import OPENAI, PROMPT, SIZE, add, content
from tests.rig.eventually import eventually
from tests.rig.house import House, OpenHouse, Plan
from tests.rig.site import Site, open_site
from tests.rig.worker import worker
from tests.system.front import Front, forget_peak, memory, nginx

with pytest.MonkeyPatch.context() as _no_home:
    # At import it reads keys from the environment and ~/.volc; ours must win.
    _no_home.delenv("VOLC_ACCESSKEY", raising=False)
    from volcengine.visual.VisualService import VisualService

WAIT_S = 20.0  # only a hang gets here
MIB = 1 << 20
LONG = 1024 * MIB
GATEWAY_MAY_GROW = 40 * MIB
NGINX_MAY_GROW = 8 * MIB
ONE_LOOP = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is tested runs elsewhere

Tool = Callable[[str], str]


@pytest.fixture(scope="session")
def certificate(
    said: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    public, private = folder / "public.pem", folder / "private.pem"
    said(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", private, "-out", public),
        *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
    )
    return public, private


@pytest.fixture
def behind(
    tool: Tool, deploy: Path, certificate: tuple[Path, Path], tmp_path: Path
) -> Callable[..., AbstractAsyncContextManager[Front]]:
    """`async with behind("127.0.0.1:8080") as front`: nginx in front of these gateways."""

    def start(*servers: str) -> AbstractAsyncContextManager[Front]:
        return nginx(tool, deploy, tmp_path / "nginx", certificate, servers)

    return start


Behind = Callable[..., AbstractAsyncContextManager[Front]]


def address(url: str) -> str:
    return urlsplit(url).netloc


@pytest.fixture
async def front(house: House, behind: Behind) -> AsyncIterator[Front]:
    """nginx in front of the house, which knows of it as its configuration would say."""
    async with behind(address(house.url)) as started:
        config = house.server.config
        told = {"public_url": started.url, "trusted_proxies": ("127.0.0.1/32",)}
        server = config.server.model_copy(update=told)
        house.server.config = replace(config, server=server)
        yield started


async def read(house: House, front: Front, path: str, **options: Any) -> Any:
    """Through nginx, with the house's token."""
    return await house.get(path, base=front.url, ssl=front.context(), **options)


# ---------------------------------------------------------------- what the file says


@pytest.fixture
def shipped(deploy: Path) -> str:
    return (deploy / "nginx" / "reelway.conf").read_text()


@pytest.fixture
def defaults(tmp_path: Path) -> Config:
    path = tmp_path / "empty.toml"
    path.write_text("")
    return load(path, {}, PROVIDERS)


def seconds(shipped: str, directive: str) -> int:
    (value,) = re.findall(rf"^ *{directive} +(\d+)s;$", shipped, re.MULTILINE)
    return int(value)


def test_nginx_gives_up_later_than_the_gateway_does(shipped: str, defaults: Config) -> None:
    """So that a client is told why, in the words of its API."""
    ours = defaults.timeouts
    silence = max(
        ours.submit_s + ours.connect_s,
        ours.idle_upstream_s + ours.heal_s,
        ours.poll_s + ours.connect_s,
    )
    assert seconds(shipped, "proxy_read_timeout") > silence
    assert seconds(shipped, "proxy_send_timeout") > ours.body_idle_s
    assert seconds(shipped, "client_body_timeout") > ours.body_idle_s
    assert seconds(shipped, "send_timeout") > ours.idle_client_s
    assert seconds(shipped, "keepalive_timeout") < ours.keepalive_s


def test_nginx_takes_larger_bodies_than_the_gateway(shipped: str, defaults: Config) -> None:
    (mebibytes,) = re.findall(r"^ *client_max_body_size +(\d+)m;$", shipped, re.MULTILINE)
    limits = defaults.limits
    assert int(mebibytes) * MIB > limits.json_bytes
    assert int(mebibytes) * MIB > limits.upload_bytes + limits.form_text_bytes


# ---------------------------------------------------------------- the SDKs


@pytest.mark.filterwarnings(
    "ignore:.*permanently shut down:DeprecationWarning", "ignore:.*deprecated:DeprecationWarning"
)
async def test_the_openai_sdk_works_unchanged(house: House, front: Front) -> None:
    """Create, poll, download, list, delete; the client speaks TLS to nginx."""

    def use() -> None:
        with (
            httpx2.Client(verify=front.context()) as http,
            openai.OpenAI(
                base_url=f"{front.url}/v1", api_key=house.token, http_client=http, max_retries=0
            ) as client,
        ):
            made = client.videos.create(model="sora-2", prompt=PROMPT)
            video = client.videos.poll(made.id, poll_interval_ms=20)
            assert video.status == "completed"
            body = client.videos.download_content(video.id).read()
            assert hashlib.sha256(body).hexdigest() == pattern_sha256(SIZE)
            assert [each.id for each in client.videos.list().data] == [video.id]
            assert client.videos.delete(video.id).deleted
            with pytest.raises(openai.NotFoundError):
                client.videos.retrieve(video.id)

    await asyncio.to_thread(use)
    assert house.sim.renders("openai") == 1


async def test_a_volcengine_signature_covers_the_host_with_its_port(
    house: House, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(front.certificate))
    visual = VisualService()  # a singleton
    visual.set_scheme("https")
    visual.set_host(address(front.url))
    visual.set_ak(house.made.record.id)
    visual.set_sk(house.made.secret_key)
    try:
        form = {"req_key": "jimeng_t2v_v30", "prompt": PROMPT}
        answer = await asyncio.to_thread(visual.cv_sync2async_submit_task, form)
        asked = {"req_key": "jimeng_t2v_v30", "task_id": answer["data"]["task_id"]}
        async with asyncio.timeout(WAIT_S):
            while True:
                told = await asyncio.to_thread(visual.cv_sync2async_get_result, asked)
                if told["data"]["status"] == "done":
                    break
                await asyncio.sleep(0.01)
    finally:
        visual.session.close()
    await is_fetched(house, front, told["data"]["video_url"])


async def test_klings_signed_tokens_work_unchanged(house: House, front: Front) -> None:
    def token() -> dict[str, str]:
        now = int(time.time())
        claims = {"iss": house.made.record.id, "exp": now + 1800, "nbf": now - 5}
        signed = jwt.encode(claims, house.made.secret_key, headers={"alg": "HS256", "typ": "JWT"})
        return {"Authorization": f"Bearer {signed}"}

    base = "/kling/v1/videos/text2video"
    options: dict[str, Any] = {"base": front.url, "ssl": front.context()}
    body = {"model_name": "kling-v2-6", "prompt": PROMPT}
    made = (await house.post(base, json=body, headers=token(), **options)).json()
    assert made["code"] == 0, made
    async with asyncio.timeout(WAIT_S):
        while True:
            path = f"{base}/{made['data']['task_id']}"
            data = (await house.get(path, headers=token(), **options)).json()["data"]
            if data["task_status"] == "succeed":
                break
            await asyncio.sleep(0.01)
    await is_fetched(house, front, data["task_result"]["videos"][0]["url"])


async def is_fetched(house: House, front: Front, url: str) -> None:
    """The link leads back through nginx, and needs no token."""
    assert url.startswith(front.url + "/")
    async with house.client.get(url, ssl=front.context()) as reply:
        assert reply.status == 200
        assert hashlib.sha256(await reply.read()).hexdigest() == pattern_sha256(SIZE)


# ---------------------------------------------------------------- bytes


async def test_ranges_conditions_and_head_pass_untouched(house: House, front: Front) -> None:
    path = content(await house.completed(prompt=PROMPT))
    head = await house.request("HEAD", path, base=front.url, ssl=front.context())
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(SIZE), b"")
    etag = head.headers["ETag"]
    for asked, status, start, size in (
        ({"Range": "bytes=1000-1999"}, 206, 1000, 1000),
        ({"Range": "bytes=-10"}, 206, SIZE - 10, 10),
        ({"Range": "bytes=1000-", "If-Range": etag}, 206, 1000, SIZE - 1000),
        ({"Range": "bytes=1000-", "If-Range": '"another"'}, 200, 0, SIZE),
    ):
        reply = await read(house, front, path, headers=asked)
        assert (reply.status, reply.body) == (status, pattern(start, size))
        assert reply.headers["ETag"] == etag
        assert reply.headers["Accept-Ranges"] == "bytes"
    assert (await read(house, front, path, headers={"If-None-Match": etag})).status == 304
    beyond = await read(house, front, path, headers={"Range": f"bytes={SIZE}-"})
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{SIZE}")


async def test_clients_may_speak_http_2(house: House, front: Front, tool: Tool) -> None:
    path = content(await house.completed(prompt=PROMPT))
    file = front.folder / "video"
    told = await curl(
        *(tool("curl"), "--silent", "--http2", "--cacert", str(front.certificate)),
        *("--header", f"Authorization: Bearer {house.token}", "--range", "5-"),
        *("--output", str(file), "--write-out", "%{http_version} %{http_code}"),
        front.url + path,
    )
    assert (told, file.read_bytes()) == ("2 206", pattern(5, SIZE - 5))


async def curl(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


@ONE_LOOP
async def test_a_gibibyte_passes_and_neither_grows(
    open_house: OpenHouse,
    behind: Behind,
    tool: Tool,
    tmp_path: Path,
) -> None:
    async with (
        open_house(Plan()) as house,
        worker(house, tmp_path) as gateway,
        behind(address(gateway.url)) as front,
    ):

        async def download(path: str) -> int:
            told = await curl(
                *(tool("curl"), "--silent", "--fail", "--http1.1", "--output", "/dev/null"),
                *("--cacert", str(front.certificate), "--write-out", "%{size_download}"),
                *("--header", f"Authorization: Bearer {house.token}", front.url + path),
            )
            return int(told)

        small = content(await house.completed(prompt=PROMPT))
        large = content(await house.completed(prompt=f"a cat size={LONG}"))
        assert await download(small) == SIZE  # whatever is made once is made now
        pids = {gateway.pid: GATEWAY_MAY_GROW, front.worker(): NGINX_MAY_GROW}
        for pid in pids:
            forget_peak(pid)
        before = {pid: memory(pid, "VmRSS") for pid in pids}
        assert await download(large) == LONG
        for pid, allowed in pids.items():
            assert memory(pid, "VmHWM") - before[pid] < allowed


async def test_what_a_drain_cuts_is_resumed_where_it_broke(
    open_house: OpenHouse, behind: Behind
) -> None:
    """The cut shows through nginx: a part is never taken for the whole. The gateway that is
    started next on the same address has the same validators."""
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(open_house(Plan(timeouts="drain_s = 0.2")))
        front = await stack.enter_async_context(behind(address(house.url)))
        path = content(await house.completed(prompt=PROMPT))
        add(house, OPENAI.fault("stall", at=200_000))
        got = b""
        async with house.client.get(
            front.url + path, headers=house.bearer, ssl=front.context()
        ) as reply:
            etag = reply.headers["ETag"]
            while len(got) < 200_000:
                got += await reply.content.readany()
            await house.server.drain()
            with pytest.raises(aiohttp.ClientPayloadError):
                while piece := await reply.content.readany():
                    got += piece
        assert got == pattern(0, 200_000)

        config = house.server.config
        redis = config.redis.model_copy(update={"url": house.server.parts.store_url})
        sockets = (bind(address(house.url)), bind("127.0.0.1:0"))
        for sock in sockets:
            stack.callback(sock.close)
        await stack.enter_async_context(
            Server(replace(config, redis=redis), house.server.log, sockets=sockets)
        )
        resumed = {"Range": f"bytes={len(got)}-", "If-Range": etag}
        rest = await read(house, front, path, headers=resumed)
        assert (rest.status, rest.headers["ETag"]) == (206, etag)
        assert hashlib.sha256(got + rest.body).hexdigest() == pattern_sha256(SIZE)


async def test_an_upload_reaches_the_gateway_while_it_is_sent(house: House, front: Front) -> None:
    """nginx does not wait for the whole of it: the gateway has a request whose body never ends."""
    _reader, writer = await dialled(front)
    try:
        head = (
            f"POST /v1/videos HTTP/1.1\r\nHost: {address(front.url)}\r\n"
            f"Authorization: Bearer {house.token}\r\nContent-Type: application/json\r\n"
            "Content-Length: 10000000\r\n\r\n"
        )
        writer.write(head.encode() + b'{"prompt": "' + b"a" * 2_000_000)
        await eventually(lambda: house.server.parts.listener.connections == 1)
    finally:
        writer.transport.abort()
    line = await house.line(lambda line: line["operation"] == "create")
    assert line["reason"] == "client_gone"


async def dialled(front: Front) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of HTTP/1.1."""
    context: ssl.SSLContext = front.context()
    context.set_alpn_protocols(["http/1.1"])
    port = urlsplit(front.url).port
    return await asyncio.open_connection("localhost", port, ssl=context)


# ---------------------------------------------------------------- events, and who leaves


@pytest.fixture
async def held(open_house: OpenHouse, behind: Behind) -> AsyncIterator[tuple[House, Front]]:
    """Renders move only when the test says so."""
    async with (
        open_house(Plan(manual=True)) as house,
        behind(address(house.url)) as front,
    ):
        yield house, front


async def test_an_event_arrives_when_it_happens(held: tuple[House, Front]) -> None:
    """nginx does not wait for a buffer to be full, or for the end."""
    house, front = held
    task_id = await house.create()
    url = f"{front.url}/v1/videos/{task_id}/events"
    async with (
        asyncio.timeout(WAIT_S),
        house.client.get(url, headers=house.bearer, ssl=front.context()) as reply,
    ):
        assert reply.content_type == "text/event-stream"
        assert (await next_event(reply))["status"] == "queued"
        task = await house.server.store.tasks.get(task_id)
        assert task is not None
        assert task.upstream_id is not None
        house.sim.step(task.upstream_id, "in_progress")
        assert (await next_event(reply))["status"] == "in_progress"
        house.sim.finish(task.upstream_id)
        while (await next_event(reply))["status"] != "completed":
            pass
        assert await reply.content.read() == b"\n"


async def next_event(reply: aiohttp.ClientResponse) -> dict[str, Any]:
    while True:
        line = await reply.content.readline()
        assert line, "the stream ended"
        if line.startswith(b"data: "):
            event: dict[str, Any] = json.loads(line[6:])
            return event


async def test_a_client_that_leaves_is_noticed_all_the_way(house: House, front: Front) -> None:
    """The gateway's access line says so, and the upstream is let go."""
    path = content(await house.completed(prompt=PROMPT))
    add(house, OPENAI.fault("stall", at=200_000))
    reader, writer = await dialled(front)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {address(front.url)}\r\n"
        f"Authorization: Bearer {house.token}\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(200_000)
    writer.transport.abort()
    line = await house.line(lambda line: line["operation"] == "content")
    assert (line["reason"], line["bytes"]) == ("client_gone", 200_000)
    await house.sim.wait_for(lambda entry: entry.aborted)


# ---------------------------------------------------------------- who is who, what is kept


async def test_what_a_client_says_about_itself_counts_for_nothing(
    house: House, front: Front
) -> None:
    claims = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "evil.example"}
    await read(house, front, "/v1/models", headers=claims)
    assert (await house.line(lambda line: True))["peer"] == "127.0.0.1"


async def test_a_wish_for_another_protocol_is_not_passed_on(house: House, front: Front) -> None:
    """By a probe, which says what arrived; asked of the gateway itself it did."""
    exp_s = int(time.time()) + 60
    path = f"/probe/{exp_s}/{sign_probe(signing_secrets(house.server.config)[0], exp_s)}"
    wish = {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings"}
    through = await read(house, front, path, headers=wish)
    direct = await house.get(path, headers=wish)
    seen = [json.loads(reply.body.partition(b"\n")[0])["upgrade"] for reply in (through, direct)]
    assert seen == ["", "h2c"]


async def test_no_log_of_nginx_has_a_secret_in_it(house: House, front: Front) -> None:
    """Not of a request that went well, and not of one that found no gateway."""
    secrets = [f"/v1/videos/x/content?sig={word}" for word in ("SECRET1", "SECRET2")]
    callbacks = [f"/callbacks/task-1/{word}" for word in ("SECRET3", "SECRET4")]
    for path in (secrets[0], callbacks[0]):
        await read(house, front, path)
    await house.server.drain()
    for path in (secrets[1], callbacks[1]):
        assert (await read(house, front, path)).status == 502
    logs = front.logs()
    assert logs.count("/v1/videos/x/content ") == 2
    assert logs.count("/callbacks/task-1/... ") == 2
    assert "SECRET" not in logs


# ---------------------------------------------------------------- a gateway that dies


async def post_video(site: Site, front: Front, key: str) -> tuple[int, bytes]:
    headers = {**site.bearer, "Idempotency-Key": key}
    body = {"model": "sora-2", "prompt": "a cat"}
    url = f"{front.url}/v1/videos"
    post = site.client.post(url, json=body, headers=headers, ssl=front.context())
    async with post as reply:
        return reply.status, await reply.read()


@ONE_LOOP
async def test_a_submit_is_never_sent_twice_by_nginx(behind: Behind, tmp_path: Path) -> None:
    """The gateway is killed in the middle, and another one stands ready: nginx tells the client,
    who may ask again and finds the task of its first submit, which is not sent a second time."""
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(
            open_site(tmp_path, timeouts="submit_s = 4\nconnect_s = 1\n")
        )
        first, second = await site.worker(), await site.worker()
        front = await stack.enter_async_context(
            behind(address(first.url), address(second.url) + " backup")
        )
        site.sim.faults.add(Fault("stall", "openai", "submit", at=None))
        post = asyncio.create_task(post_video(site, front, "k"))
        await site.sim.wait_for(lambda entry: entry.operation == "submit" and entry.stalled)
        await first.kill()
        assert (await post)[0] == 502
        assert second.lines == []
        status, body = await post_video(site, front, "k")
        video = json.loads(body)  # nobody can ask this upstream what became of the first attempt
        assert (status, video["status"]) == (200, "failed")
        assert video["error"]["code"] == "submission_unconfirmed"
        assert site.submits()["openai"] == site.renders()["openai"] == 1


@ONE_LOOP
async def test_a_poll_that_meets_a_dead_gateway_is_asked_of_the_next(
    behind: Behind, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(open_site(tmp_path))
        first, second = await site.worker(), await site.worker()
        front = await stack.enter_async_context(
            behind(address(first.url), address(second.url) + " backup")
        )

        async def models() -> int:
            url = f"{front.url}/v1/models"
            async with site.client.get(url, headers=site.bearer, ssl=front.context()) as reply:
                return reply.status

        assert await models() == 200  # nginx keeps this connection
        await first.kill()
        assert [await models() for _ in range(3)] == [200] * 3
        assert len(await second.accounted(3)) == 3


@pytest.fixture(autouse=True)
def no_warning(tmp_path: Path) -> Iterator[None]:
    """nginx has nothing to say about the file we ship."""
    yield
    log = tmp_path / "nginx" / "startup.log"
    if log.exists():
        assert not re.findall(r"\[(?:warn|error|crit|alert|emerg)\].*", log.read_text())
