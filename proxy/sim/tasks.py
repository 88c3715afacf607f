"""The renders: their states, their timing, and the files they end in."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from proxy.sim.pattern import Assets, Clip
from proxy.sim.settings import Settings

State = Literal["queued", "in_progress", "completed", "failed"]
STATES: tuple[State, ...] = get_args(State)
Variant = Literal["video", "thumbnail", "spritesheet"]

_KEPT = 20_000
_QUEUED_S = 1.0
_RENDER_S = (8.0, 20.0)
_SIZE = re.compile(r"\bsize=(\d{1,12})\b")
_VIDEOS = re.compile(r"\bvideos=([1-4])\b")


@dataclass(frozen=True, slots=True)
class Failure:
    """In the provider's own words."""

    code: int | str
    message: str


@dataclass(frozen=True, slots=True)
class Result:
    """One finished file; `size_bytes` None is the shipped clip."""

    id: str
    size_bytes: int | None


@dataclass(slots=True, eq=False)
class Task:
    id: str
    service: str
    #: The provider's endpoint or model kind; a Kling task is found only under its own.
    endpoint: str
    account: int
    #: The request as the provider understood it, defaults filled in.
    request: dict[str, object]
    created_s: float
    updated_s: float
    queued_s: float
    render_s: float
    results: tuple[Result, ...]
    #: The failure it will end in, if it may run to its end by itself.
    doom: Failure | None = None
    state: State = "queued"
    started_s: float | None = None
    completed_s: float | None = None
    failure: Failure | None = None
    #: Set by `step`, else computed from the clock.
    set_progress: int | None = None

    @property
    def is_open(self) -> bool:
        return self.state in ("queued", "in_progress")

    def to_json(self) -> dict[str, object]:
        failure = self.failure and {"code": self.failure.code, "message": self.failure.message}
        return {
            "id": self.id,
            "service": self.service,
            "endpoint": self.endpoint,
            "account": self.account,
            "state": self.state,
            "created_s": self.created_s,
            "completed_s": self.completed_s,
            "failure": failure,
            "results": [result.id for result in self.results],
        }


class Ids:
    """Identifiers of the providers' forms; equal seeds give equal ids."""

    def __init__(self, seed: int | None, label: str) -> None:
        self._random = random.Random(None if seed is None else f"{seed}:{label}")

    def hexadecimal(self, length: int) -> str:
        return "".join(self._random.choices("0123456789abcdef", k=length))

    def digits(self, length: int) -> str:
        return self._random.choice("123456789") + "".join(
            self._random.choices("0123456789", k=length - 1)
        )

    def uuid(self) -> str:
        text = self.hexadecimal(32)
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


class Tasks:
    """Unless `manual`, a task moves by itself; `speed` and `manual` may change at any time
    and hold for the steps that begin then."""

    def __init__(self, settings: Settings, assets: Assets) -> None:
        self.speed = settings.speed
        self.manual = settings.manual
        self.size_bytes = settings.size_bytes
        self.on_add: list[Callable[[Task], None]] = []
        self.on_change: list[Callable[[Task], None]] = []
        self._clock = settings.clock
        self._assets = assets
        self._pace = Ids(settings.seed, "pace")
        self._tasks: dict[str, Task] = {}
        self._results: dict[str, tuple[Task, Result]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def of(self, service: str, account: int | None = None) -> list[Task]:
        """Oldest first."""
        return [
            task
            for task in self._tasks.values()
            if task.service == service and account in (None, task.account)
        ]

    def __getitem__(self, task_id: str) -> Task:
        return self._tasks[task_id]

    def get(self, task_id: str) -> Task | None:
        return self._tasks.get(task_id)

    def in_flight(self, service: str, account: int) -> int:
        return sum(task.is_open for task in self.of(service, account))

    def result(self, result_id: str) -> tuple[Task, Result] | None:
        return self._results.get(result_id)

    def add(
        self,
        *,
        task_id: str,
        service: str,
        endpoint: str,
        account: int,
        request: dict[str, object],
        prompt: str,
        result_id: Callable[[], str],
        doom: Failure,
    ) -> Task:
        """A new queued task. `prompt` may hold the markers `fail-later` (it ends in `doom`),
        `size=N` (bytes of the result) and `videos=N` (how many results)."""
        marked = _SIZE.search(prompt)
        size = int(marked.group(1)) if marked else self.size_bytes
        several = _VIDEOS.search(prompt)
        count = int(several.group(1)) if several else 1
        now = self._clock()
        task = Task(
            id=task_id,
            service=service,
            endpoint=endpoint,
            account=account,
            request=request,
            created_s=now,
            updated_s=now,
            queued_s=_QUEUED_S,
            render_s=self._pace.uniform(*_RENDER_S),
            results=tuple(Result(result_id(), size) for _ in range(count)),
            doom=doom if "fail-later" in prompt else None,
        )
        self.restore(task)
        for listener in self.on_add:
            listener(task)
        return task

    def restore(self, task: Task) -> None:
        """Goes on with a task of an earlier life; its present step begins anew."""
        self._tasks[task.id] = task
        for result in task.results:
            self._results[result.id] = (task, result)
        while len(self._tasks) > _KEPT:
            self.forget(next(iter(self._tasks)))
        self._pace_next(task)

    def step(self, task_id: str, state: State, progress: int | None = None) -> Task:
        """Puts a task into any state, also backwards. Raises KeyError for an unknown id."""
        task = self._tasks[task_id]
        self._move(task, state, progress=progress)
        return task

    def fail(self, task_id: str, failure: Failure) -> Task:
        task = self._tasks[task_id]
        self._move(task, "failed", failure=failure)
        return task

    def forget(self, task_id: str) -> None:
        """The provider has never heard of it, and its files are gone."""
        task = self._tasks.pop(task_id)
        self._stop_timer(task)
        for result in task.results:
            self._results.pop(result.id, None)

    def clear(self) -> None:
        for task_id in list(self._tasks):
            self.forget(task_id)

    def progress(self, task: Task) -> int:
        """Percent done, 0 to 100."""
        if task.set_progress is not None:
            return task.set_progress
        if task.state == "completed":
            return 100
        if task.state == "queued" or task.started_s is None:
            return 0
        done = (self._clock() - task.started_s) * self.speed / task.render_s
        return max(1, min(99, int(100 * done)))

    def clip(self, task: Task, result: Result, variant: Variant = "video") -> Clip:
        """The file of a completed task."""
        modified_s = int(task.completed_s or task.updated_s)
        etag = f'"{variant}-{result.id}"'
        if variant == "thumbnail":
            data, media_type = self._assets.thumbnail, "image/webp"
        elif variant == "spritesheet":
            data, media_type = self._assets.spritesheet, "image/jpeg"
        elif result.size_bytes is not None:
            return Clip("video/mp4", etag, modified_s, result.size_bytes)
        else:
            data, media_type = self._assets.video, "video/mp4"
        return Clip(media_type, etag, modified_s, len(data), data)

    def _move(
        self,
        task: Task,
        state: State,
        *,
        failure: Failure | None = None,
        progress: int | None = None,
    ) -> None:
        self._stop_timer(task)
        now = self._clock()
        if state == "failed":
            task.failure = failure or task.doom or Failure("unknown", "Generation failed.")
        else:
            task.failure = None
        if state == "in_progress" and task.state != "in_progress":
            task.started_s = now
        task.completed_s = now if state in ("completed", "failed") else None
        task.set_progress = progress
        task.state = state
        task.updated_s = now
        self._pace_next(task)
        for listener in self.on_change:
            listener(task)

    def _pace_next(self, task: Task) -> None:
        if self.manual or not task.is_open:
            return
        delay_s = task.queued_s if task.state == "queued" else task.render_s
        following: State = "in_progress"
        if task.state == "in_progress":
            following = "failed" if task.doom else "completed"
        loop = asyncio.get_running_loop()
        self._timers[task.id] = loop.call_later(delay_s / self.speed, self._move, task, following)

    def _stop_timer(self, task: Task) -> None:
        timer = self._timers.pop(task.id, None)
        if timer is not None:
            timer.cancel()


def as_state(value: object) -> State:
    """Raises ValueError for a word that is no state."""
    for state in STATES:
        if value == state:
            return state
    raise ValueError(f"'state' is {value!r}; accepted: {', '.join(STATES)}.")
