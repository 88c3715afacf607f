"""Pipes of a megabyte are few for a user who is not root: they are kept for the next download."""

from __future__ import annotations

import os

from tests.rig.downloads import OPENAI, PROMPT, content, told
from tests.rig.house import OpenHouse


def pipes() -> set[str]:
    """The pipes this process holds, by their inodes."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the one that lists them
            continue
    return {name for name in found if name.startswith("pipe:")}


async def test_a_pipe_serves_one_download_after_the_other(open_house: OpenHouse) -> None:
    """And is given back with the server."""
    before = pipes()
    async with open_house() as house:
        task_id = await house.completed(OPENAI.model, PROMPT)
        others = pipes()
        after = []
        for _ in range(2):
            _, line = await told(house, content(task_id))
            assert (line["reason"], line["tier"]) == ("done", "splice")
            after.append(pipes() - others)
        assert len(after[0]) == 1
        assert after[0] == after[1]
    assert pipes() <= before
