"""Who is told what the store does, to count it. The store itself knows no metrics."""

from __future__ import annotations

from typing import Final, Protocol

from proxy.model import Stage, Task


class Observer(Protocol):
    """Called on the loop's own thread; it neither raises nor blocks."""

    def task_moved(self, before: Stage | None, task: Task, *, refused: bool = False) -> None:
        """A change of ours was written; `before` is the stage it came from, None of a new task.
        Each change is told in one worker only; one whose answer was lost is told nowhere."""
        ...

    def round_trip(self, seconds: float, *, answered: bool) -> None:
        """Commands went out together, and their answers came, or did not."""
        ...


class _Nobody:
    def task_moved(self, before: Stage | None, task: Task, *, refused: bool = False) -> None:
        pass

    def round_trip(self, seconds: float, *, answered: bool) -> None:
        pass


NOBODY: Final[Observer] = _Nobody()
