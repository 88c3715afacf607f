"""Own servers and gateways as they really answer: failed is failed, accepted is accepted."""

from __future__ import annotations

import pytest

from proxy.sim import Fault, pattern
from tests.rig.house import House, Plan

SIZE = 100_000


def plan(simulated: str, server: str | None = None, **settings: object) -> Plan:
    """Against a simulated server; `server` is what the configuration says it is."""
    return Plan(
        sim={"services": {"openai": {"server": simulated, **settings}}, "size_bytes": SIZE},
        openai=f'options = {{ server = "{server or simulated}" }}\nresult_hosts = ["$cdn"]',
    )


EACH_SERVER = pytest.mark.parametrize(
    "house",
    [plan("vllm-omni"), plan("sglang"), plan("litellm", "openai")],
    indirect=True,
    ids=["vllm-omni", "sglang", "litellm"],
)


@EACH_SERVER
async def test_a_failed_render_fails_here_and_says_why(house: House) -> None:
    """vLLM-Omni answers the poll of a failed job with an error's status, LiteLLM with an error."""
    video = await house.finished(await house.create("sora-2", "fail-later"))
    assert video["status"] == "failed"
    assert "could not be generated" in video["error"]["message"]


@EACH_SERVER
async def test_a_finished_video_is_had_whole(house: House) -> None:
    task_id = await house.completed()
    reply = await house.get(f"/v1/videos/{task_id}/content")
    assert (reply.status, reply.body == pattern(0, SIZE)) == (200, True)
    assert len(house.sim.tasks.of("openai")) == 1


@pytest.mark.parametrize("house", [plan("sglang", cloud=True)], indirect=True)
async def test_a_video_in_cloud_storage_is_had_from_there(house: House) -> None:
    task_id = await house.completed()
    reply = await house.get(f"/v1/videos/{task_id}/content")
    assert (reply.status, reply.body == pattern(0, SIZE)) == (200, True)
    assert [entry.status for entry in house.sim.log.select("cdn", "file")] == [200]


@pytest.mark.parametrize("house", [plan("openai", numeric_ids=True)], indirect=True)
async def test_a_job_with_a_number_for_an_id_is_followed_to_its_end(house: House) -> None:
    await house.completed()
    assert len(house.sim.tasks.of("openai")) == 1


ODD = [
    [Fault("bom", "openai", times=None)],
    [Fault("big_head", "openai", "submit", rate=6000)],
    [Fault("members", "openai", "submit", members=(("status", "SUBMITTED"), ("progress", None)))],
    [Fault("members", "openai", "poll", times=None, members=(("status", "SUCCEEDED"),))],
    [Fault("members", "openai", times=None, members=(("seconds", 4), ("progress", "50%")))],
    [Fault("members", "openai", "submit", members=(("error", {"message": "odd"}),))],
]


@pytest.mark.parametrize("faults", ODD, ids=lambda faults: faults[0].kind)
@pytest.mark.parametrize("house", [plan("openai")], indirect=True, ids=["openai"])
async def test_an_odd_answer_costs_no_render(house: House, faults: list[Fault]) -> None:
    for fault in faults:
        house.sim.faults.add(fault)
    await house.completed()
    assert len(house.sim.tasks.of("openai")) == 1


@pytest.mark.parametrize(
    "house", [plan("sglang"), plan("vllm-omni")], indirect=True, ids=["sglang", "vllm-omni"]
)
async def test_a_dead_worker_is_a_refusal_at_once(house: House) -> None:
    """Not a task that hangs until its outcome is given up."""
    house.sim.faults.add(Fault("status", "openai", "submit", status=503))
    reply = await house.post("/v1/videos", json={"model": "sora-2", "prompt": "a cat"})
    assert (reply.status, reply.json()["error"]["code"]) == (503, "unavailable")
    assert b"Scheduler" not in reply.body
    assert len(house.sim.tasks.of("openai")) == 0
