"""Simulated upstreams: OpenAI-style servers, Kling, Jimeng and their file host, on loopback.

Written from the providers' documents, with faults on request. Nothing here imports the rest
of `proxy`: a witness that shares our code repeats our mistakes.

    async with Simulator(Settings(manual=True)) as sim:
        sim.faults.add(Fault("cut", service="cdn", at=1_000_000))
        ...
        entry = await sim.wait_for(lambda e: e.service == "kling" and e.operation == "submit")
        sim.finish(entry.task_id)

Words in a prompt steer a task: `forbidden-prompt` is refused by moderation,
`fail-later` fails while rendering, `size=N` gives a result of N bytes (see `pattern`); and
`videos=N` gives a Kling task N results.
"""

from __future__ import annotations

from proxy.sim.body import Upload
from proxy.sim.faults import Active, Fault
from proxy.sim.log import Entry
from proxy.sim.pattern import byte_at, pattern, pattern_sha256
from proxy.sim.settings import Account, Settings
from proxy.sim.simulator import Simulator
from proxy.sim.tasks import Task

__all__ = [
    "Account",
    "Active",
    "Entry",
    "Fault",
    "Settings",
    "Simulator",
    "Task",
    "Upload",
    "byte_at",
    "pattern",
    "pattern_sha256",
]
