"""Remembering tasks from one process to the next: a line of JSON for each change.

The demo stops and starts; a provider does not forget a render because of that.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from proxy.sim.tasks import Failure, Result, Task


class Journal:
    """`load` what is there, then `write` every change; `close` at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a", encoding="utf-8")

    def load(self) -> list[Task]:
        """Each task as it was last written, oldest first; a torn last line is passed over."""
        found: dict[str, Task] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                task = _task(json.loads(line))
            except (ValueError, TypeError, KeyError):
                continue
            found[task.id] = task
        return list(found.values())

    def write(self, task: Task) -> None:
        self._file.write(json.dumps(dataclasses.asdict(task)) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _task(value: dict[str, Any]) -> Task:
    results = tuple(Result(**result) for result in value["results"])
    doom, failure = (value[name] and Failure(**value[name]) for name in ("doom", "failure"))
    return Task(**{**value, "results": results, "doom": doom, "failure": failure})
