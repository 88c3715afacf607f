"""Tasks that wait for a place at an upstream: accepted, told as queued, and sent in their turn.

Every worker sends what waits: when a place has become free, and as a net on a slow tick. It
leases the next task, so that one which dies with it is taken over, and drives it like a first
submit.

Rule: whoever writes that a waiting task is sent has it, nobody else (`TaskWriter.take_over`). The
lists and leases in the store are only about order; what they lose, the tracker puts back.

Rule: a task that waits ends by its own fault, by its owner, with its token, by its age, or when
nobody is configured to take it for what was held; never because an account is busy, paused or
out of reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final

from proxy.config import Config
from proxy.config.tables import MIB
from proxy.errors import Invalid, NotFound, ProxyError, TooManyInFlight, Unavailable
from proxy.http.clips import measured
from proxy.model import Credential, Route, Stage, Task, TaskError, Upstream, VideoRequest
from proxy.providers.base import Provider
from proxy.store import Store
from proxy.store.queued_requests import MAX_BYTES, pack
from proxy.tasks import lifecycle
from proxy.tasks.breaker import BUSY_RETRY_S
from proxy.tasks.credentials import CredentialPool
from proxy.tasks.dispatch import Dispatcher
from proxy.tasks.jobs import Jobs, Rounds
from proxy.tasks.offload import offload
from proxy.tasks.planning import Attempt, SubmitPlan, attempts_of, max_age_ms, places_of
from proxy.tasks.pricing import price_micro
from proxy.tasks.runtime import Runtime
from proxy.telemetry.rate_limited_log import RateLimitedLog

TICK_S: Final = 1.0  # how often it looks when nobody says that a place is free
AT_ONCE: Final = 16  # sent by one worker at a time, each with up to 12 MiB
# Those at the front that cannot go now (a remix goes to one account only), in one round.
PASSED_OVER: Final = 64
# Before a task whose attempt was refused is sent again: first, longest.
PAUSE_MS: Final = 1000
MAX_PAUSE_MS: Final = 60_000
KEPT_LONGER_MS: Final = 3_600_000  # a request outlives the longest wait of its task
NEVER: Final = "It was never submitted: "


class QueueSender:
    """Runs until `aclose`. `clock` gives seconds since the epoch; `callback_url(task id)` an
    address of ours the provider may call; `random01` a number in [0, 1) for the weighted
    choice."""

    def __init__(
        self,
        runtime: Runtime,
        providers: Mapping[str, Provider],
        store: Store,
        dispatcher: Dispatcher,
        callback_url: Callable[[str], str | None],
    ) -> None:
        self._config = runtime.config
        self._providers = providers
        self._store = store
        self._dispatcher = dispatcher
        self._clock = runtime.clock
        self._callback_url = callback_url
        self._random01 = runtime.random01
        self._log = runtime.log
        self._troubles = RateLimitedLog(runtime.log)
        self._pool = CredentialPool(runtime, store)
        self._rounds = Rounds(self._round, lambda: TICK_S, runtime.log, "queue")
        self._jobs = Jobs(runtime.log)
        # Those passed over in a round that was full of them: the next one goes on behind them.
        self._passed: dict[str, list[str]] = {}
        self._now_ms = runtime.now_ms

    def start(self) -> None:
        self._rounds.start()

    async def aclose(self) -> None:
        """Take no more, and wait for what is being sent: each ends within its own deadlines."""
        await self._rounds.finish()
        await self._jobs.drain()

    def wake(self) -> None:
        """A slot may be free, or a task was queued."""
        self._rounds.wake()

    def queues_for(
        self, route: Route, request: VideoRequest, forwarded: Mapping[str, str], size: int
    ) -> RouteQueues:
        """Where this request of `size` bytes may wait."""
        return RouteQueues(
            self._config, self._store, self._clock, self.wake, route, request, forwarded, size
        )

    # ------------------------------------------------------------ whose turn it is

    async def _round(self) -> bool:
        """One look at every queue. False: what comes up meanwhile wakes the next round."""
        counts = await self._store.waiting.counts(self._config().upstreams.keys())
        for name, count in counts.items():
            if count:
                await self._serve(name)
        return False

    async def _serve(self, name: str) -> None:
        """Send what waits at this upstream while somebody may take it."""
        passed = self._passed.pop(name, [])
        most = len(passed) + PASSED_OVER
        while len(self._jobs) < AT_ONCE and not self._rounds.is_closing:
            if len(passed) >= most:
                self._passed[name] = passed
                return
            if not await self._pool.has_free_slot(self._reach(name)):
                return
            now_ms = self._now_ms()
            task_id = await self._store.waiting.next(name, now_ms, now_ms + self._lease_ms, passed)
            if task_id is None:
                return
            if not await self._start(name, task_id):
                passed.append(task_id)

    def _reach(self, name: str) -> list[tuple[Upstream, Credential]]:
        """Who may take one of those that wait at this upstream: its route's others as well."""
        config = self._config()
        names = {
            other
            for route in config.routes
            if name in (share for share, _ in route.upstreams)
            for other, _ in route.upstreams
        }
        return [
            (config.upstreams[other], credential)
            for other in names
            for credential in config.upstreams[other].credentials
            if not credential.retired
        ]

    # ------------------------------------------------------------ one task

    async def _start(self, name: str, task_id: str) -> bool:
        """Begin to send a task we have leased. False: it has to wait on."""
        waiting = self._store.waiting
        task = await self._store.tasks.get(task_id)
        if task is not None and task.stage is Stage.RESERVED and not task.queue:
            await waiting.release(name, task_id)  # whoever puts it here has not finished
            return False
        if task is None or not task.is_waiting or task.queue != name:
            await waiting.leave(name, task_id)
            if task is None or task.stage.is_final:
                await waiting.drop(task_id)  # who put it here died before it was said to wait
            return True
        config, now_ms = self._config(), self._now_ms()
        places = places_of(config.routes, config.upstreams, task)
        oldest_ms = max_age_ms(config.routes, task, config.timeouts.task_max_age_s)
        why = lifecycle.end_of_wait(task, now_ms, oldest_ms, has_place=bool(places))
        why = why or await self._shut_out(task)
        source = None
        if why is None and task.source_id is not None:
            source = await self._store.tasks.get(task.source_id)
            if source is None:
                why = _lost("the video it works on has expired")
            else:
                made_by = source.upstream, source.credential
                places = [(up, key) for up, key in places if (up.name, key.name) == made_by]
        if why is None and places and not await self._pool.has_free_slot(places, task.token_id):
            await waiting.release(name, task_id)
            return False
        plan = why or await self._load(task, source)
        if isinstance(plan, TaskError):
            await self._end(task, plan)
            return True
        begun: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        job = self._jobs.start(self._send(task, plan, begun), f"send {task_id}", task_id=task_id)
        job.add_done_callback(self._sent)
        return await begun

    async def _shut_out(self, task: Task) -> TaskError | None:
        """Why its token may have nothing rendered any more; None: it may. One that has expired
        may: it was good when the task was accepted."""
        record = await self._store.tokens.get(task.token_id)
        if record is None or (record.revoked_ms is None and record.disabled_ms is None):
            return None
        return _lost(f"its API key was {'disabled' if record.revoked_ms is None else 'revoked'}")

    def _sent(self, _job: asyncio.Task[None]) -> None:
        if len(self._jobs) == AT_ONCE - 1:  # there was no room until now
            self._rounds.wake()

    async def _load(self, task: Task, source: Task | None) -> SubmitPlan | TaskError:
        """What to send, or why that is not to be had any more."""
        kept = await self._store.waiting.kept(task.id)
        if kept is None:
            return _lost("its request was not kept")
        config = self._config()
        route = next((route for route in config.routes if route.model == task.route), None)
        if route is None:
            return _lost("its route has just left the configuration")
        try:
            attempts = attempts_of(
                route,
                config.upstreams,
                self._providers,
                await offload(kept.size, measured, kept.request),
                task.id,
                source,
                task.model,
                self._random01,
                self._callback_url(task.id),
            )
        except ProxyError as error:
            return _lost(f"as things are configured now it cannot be ({error.message})")
        covered = [attempt for attempt in attempts if _is_covered(task, attempt)]
        if not covered:
            return _lost("as things are configured now it would cost more than was held for it")
        return SubmitPlan(covered, kept.forwarded, kept.size)

    async def _send(self, task: Task, plan: SubmitPlan, begun: asyncio.Future[bool]) -> None:
        """Submit a queued task. Sets `begun` when the next task may be leased; True if this one
        has left the queue."""
        leaving: asyncio.Task[None] | None = None

        def sent() -> None:
            nonlocal leaving
            leaving = asyncio.create_task(self._leave(task), name=f"leave {task.id}")
            leaving.add_done_callback(lambda _: begun.set_result(True))

        try:
            after = await self._dispatcher.submit_queued(task, plan, sent)
            if leaving is not None:
                await leaving
            await self._settle(task, after, was_sent=leaving is not None)
        except NotFound:
            await self._leave(task)
        except Unavailable as down:  # its lease ends, or the tracker sees to it
            self._troubles.warning("queued task not sent", task_id=task.id, why=str(down))
        except Exception:  # noqa: BLE001 -- the rim of a background job: logged
            self._log.exception("queued submit failed", task_id=task.id)
            with suppress(ProxyError):
                await self._end(task, _lost("the gateway failed"))
        finally:
            if leaving is not None:
                await leaving
            elif not begun.done():
                begun.set_result(False)

    async def _settle(self, task: Task, after: Task, *, was_sent: bool) -> None:
        """What is left to do in the queue, by what became of the task."""
        waiting = self._store.waiting
        if after.is_waiting and not was_sent:
            await waiting.release(task.queue, task.id)
        elif after.is_waiting:
            pause_ms = min(PAUSE_MS << min(after.attempt - 1, 16), MAX_PAUSE_MS)
            held_until_ms = self._now_ms() + pause_ms
            await waiting.join(after.queue, after, held_until_ms=held_until_ms)
        else:
            if not was_sent:
                await self._leave(task)
            with suppress(ProxyError):  # else it goes when the task ends
                await waiting.drop(task.id)
            self._log.info(
                "left the queue",
                task_id=task.id,
                upstream=after.upstream,
                stage=after.stage.value,
                waited_s=round((self._now_ms() - task.created_ms) / 1000, 1),
            )

    async def _leave(self, task: Task) -> None:
        """Out of the list; what fails here is found there and taken out in its turn."""
        with suppress(ProxyError):
            await self._store.waiting.leave(task.queue, task.id, served=True)

    async def _end(self, task: Task, error: TaskError) -> None:
        """A lost race is fine: somebody sends it, or has ended it."""
        ended = lifecycle.failed(task, error, self._now_ms())
        assert ended is not None
        retention_s = self._config().limits.retention_s
        other = await self._store.tasks.swap(
            task,
            ended,
            None,
            f"never sent: {error.message.removeprefix(NEVER)}",
            retention_s,
            never_sent=error is not lifecycle.CANCELLED,
        )
        if other is not None:
            await self._store.waiting.release(task.queue, task.id)

    @property
    def _lease_ms(self) -> int:
        return lease_ms(self._config())


class RouteQueues:
    """The queues of one route's upstreams for one request: a `dispatch.Line`."""

    def __init__(
        self,
        config: Callable[[], Config],
        store: Store,
        clock: Callable[[], float],
        wake: Callable[[], None],
        route: Route,
        request: VideoRequest,
        forwarded: Mapping[str, str],
        size: int,
    ) -> None:
        self._config = config
        self._waiting = store.waiting
        self._clock = clock
        self._wake = wake
        self._route = route
        self._request = request
        self._forwarded = forwarded
        self._size = size

    async def ahead(self, upstreams: Collection[str]) -> frozenset[str]:
        counts = await self._waiting.counts(upstreams)
        return frozenset(name for name, count in counts.items() if count)

    async def join(self, task: Task, upstreams: Sequence[str]) -> str | ProxyError:
        packed = await offload(self._size, pack, self._request, self._forwarded)
        if packed.size > MAX_BYTES:
            return self._refusal(
                task, f"one of more than {MAX_BYTES // MIB} MiB does not wait for a place"
            )
        config = self._config()
        held_until_ms = int(self._clock() * 1000) + lease_ms(config)
        for name in upstreams:
            if await self._waiting.join(
                name, task, most=self._route.queue, held_until_ms=held_until_ms
            ):
                try:
                    await self._waiting.keep(task.id, packed, _kept_ms(config, task))
                except BaseException:
                    await self.left(task.id, name)
                    raise
                return name
        return self._refusal(task, f"{self._route.queue} or more wait for a place already")

    async def joined(self, task: Task) -> None:
        with suppress(ProxyError):  # else its lease ends
            await self._waiting.release(task.queue, task.id)
        self._wake()

    async def left(self, task_id: str, upstream: str) -> None:
        with suppress(ProxyError):
            await self._waiting.leave(upstream, task_id)
            await self._waiting.drop(task_id)

    @staticmethod
    def _refusal(task: Task, why: str) -> TooManyInFlight:
        return TooManyInFlight(
            f"Every account for model '{task.model}' has as many videos under way as it may, and "
            f"{why}; nothing was submitted. Wait for one to end.",
            retry_after_s=BUSY_RETRY_S,
            limit="queue",
        )


def lease_ms(config: Config) -> int:
    """How long a task is one worker's to put into a queue, or to send from it."""
    return round(config.timeouts.lease_s * 1000)


def _kept_ms(config: Config, task: Task) -> int:
    longest_ms = max_age_ms(config.routes, task, config.timeouts.task_max_age_s)
    return longest_ms + KEPT_LONGER_MS


def _is_covered(task: Task, attempt: Attempt) -> bool:
    """It costs no more than is held for the task."""
    try:
        return price_micro(task.price, attempt.rendered) <= task.hold_micro
    except Invalid:  # its price goes by seconds, and nobody says how many
        return False


def _lost(why: str) -> TaskError:
    return TaskError("not_submitted", f"{NEVER}{why}.")
