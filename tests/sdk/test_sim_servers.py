"""The simulated own servers answer as the real ones were seen to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from proxy.sim import Settings, Simulator


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(Settings(manual=True, seed=1, size_bytes=1000)) as simulator:
        yield simulator


async def ask(sim: Simulator, method: str, path: str, body: object = None) -> tuple[int, Any]:
    headers = {"Authorization": "Bearer sk-sim"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.request(method, sim.openai_url + path, json=body) as reply,
    ):
        return reply.status, json.loads(await reply.read())


async def tune(sim: Simulator, path: str, body: object) -> int:
    async with (
        aiohttp.ClientSession() as client,
        client.post(sim.control_url + path, json=body) as reply,
    ):
        return reply.status


async def submit(sim: Simulator, server: str, **settings: object) -> str:
    assert await tune(sim, "/settings", {"openai_server": server, **settings}) == 200
    body = {"model": "wan", "prompt": "a cat", "seconds": "3"}
    status, job = await ask(sim, "POST", "/videos", body)
    assert (status, job["object"], job["status"]) == (200, "video", "queued")
    return str(job["id"])


async def test_vllm_omni(sim: Simulator) -> None:
    """A failed job comes with an error's status and whole; DELETE ends a render."""
    job_id = await submit(sim, "vllm-omni")
    assert job_id.startswith("video_gen_")
    assert (await ask(sim, "GET", f"/videos/{job_id}/content"))[0] == 404
    sim.finish(job_id)
    status, job = await ask(sim, "GET", f"/videos/{job_id}")
    made = (status, job["duration_s"], job["num_frames"], job["fps"])
    assert made == (200, 3.0, 48, 16.0)
    for code, expected in ((None, 500), (500, 500), (400, 400)):
        sim.fail(job_id, code)
        status, job = await ask(sim, "GET", f"/videos/{job_id}")
        assert (status, job["id"], job["status"]) == (expected, job_id, "failed")
        assert (await ask(sim, "GET", f"/videos/{job_id}/content"))[0] == 422
    assert (await ask(sim, "DELETE", f"/videos/{job_id}"))[1]["deleted"] is True
    status, answer = await ask(sim, "GET", f"/videos/{job_id}")
    assert (status, answer["error"]["code"]) == (404, 404)
    assert sim.renders("openai") == 0


async def test_sglang(sim: Simulator) -> None:
    """A failed job is a 200 without a code; DELETE drops the record, and the render goes on."""
    job_id = await submit(sim, "sglang")
    sim.fail(job_id)
    status, job = await ask(sim, "GET", f"/videos/{job_id}")
    assert (status, job["status"], "code" in job["error"]) == (200, "failed", False)
    other = await submit(sim, "sglang")
    assert (await ask(sim, "DELETE", f"/videos/{other}"))[1]["status"] == "deleted"
    assert await ask(sim, "GET", f"/videos/{other}") == (404, {"detail": "Video not found"})
    assert sim.renders("openai") == 2


async def test_sglang_with_cloud_storage(sim: Simulator) -> None:
    job_id = await submit(sim, "sglang", openai_cloud=True)
    sim.finish(job_id)
    _, job = await ask(sim, "GET", f"/videos/{job_id}")
    assert job["urls"] == [job["url"]]
    assert job["url"].startswith(sim.cdn_url)
    status, answer = await ask(sim, "GET", f"/videos/{job_id}/content")
    assert (status, job["url"].partition("?")[0] in answer["detail"]) == (400, True)


async def test_litellm(sim: Simulator) -> None:
    """A failed job is a 500 with the job inside its message; there is no DELETE."""
    job_id = await submit(sim, "litellm")
    assert len(job_id) > 200
    sim.fail(job_id)
    status, answer = await ask(sim, "GET", f"/videos/{job_id}")
    assert status == 500
    assert '"status": "failed"' in answer["error"]["message"]
    assert (await ask(sim, "DELETE", f"/videos/{job_id}"))[0] == 405


async def test_a_restarted_server_knows_none_of_its_jobs(sim: Simulator) -> None:
    job_id = await submit(sim, "vllm-omni")
    assert await tune(sim, "/services/openai/restart", {}) == 200
    assert (await ask(sim, "GET", f"/videos/{job_id}"))[0] == 404


async def test_numeric_ids_are_numbers(sim: Simulator) -> None:
    job_id = await submit(sim, "openai", openai_numeric_ids=True)
    status, job = await ask(sim, "GET", f"/videos/{job_id}")
    assert (status, job["id"]) == (200, int(job_id))


@pytest.mark.parametrize(
    "body", [{"openai_server": "comfy"}, {"openai_cloud": 1}, {"openai_numeric_ids": "yes"}]
)
async def test_a_wrong_setting_is_refused(sim: Simulator, body: object) -> None:
    assert await tune(sim, "/settings", body) == 400
