"""Requests to a task's provider after its submit: polls, look-ups, fresh addresses, cancelling.

Downloads, DELETE and the tracker share them. Rule: only the credential that made a task asks
after it, and nothing here changes a task but its result addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Final

from proxy.errors import Unavailable, UpstreamTrouble
from proxy.http.outbound import Draft
from proxy.model import Credential, Status, Task, TaskState, Upstream
from proxy.providers.base import Provider
from proxy.providers.outcomes import Accepted, Cancelled, Outcome, Refused, Transient
from proxy.store import Store
from proxy.tasks import lifecycle
from proxy.tasks.bulkhead import Bulkhead
from proxy.tasks.runtime import Runtime
from proxy.tasks.schedule import poll_patience_s
from proxy.telemetry.rate_limited_log import RateLimitedLog
from proxy.upstream import Answer, Upstreams

AT_ONCE_EACH: Final = 64  # tasks that one worker asks after with one credential
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class Forgotten(UpstreamTrouble):
    """A provider says that it does not know a task that it has finished."""


class ProviderCalls:
    """What one worker asks providers about tasks; `bulkhead` bounds it for each credential."""

    def __init__(
        self,
        runtime: Runtime,
        providers: Mapping[str, Provider],
        store: Store,
        upstreams: Upstreams,
    ) -> None:
        self._config = runtime.config
        self._retention_s = runtime.retention_s
        self._clock = runtime.clock
        self._now_ms = runtime.now_ms
        self._log = runtime.log
        self._troubles = RateLimitedLog(runtime.log)
        self._tracing = runtime.tracing
        self._providers = providers
        self._store = store
        self._upstreams = upstreams
        self.bulkhead = Bulkhead(AT_ONCE_EACH)

    # ------------------------------------------------------------ with what

    def credential_of(self, task: Task) -> tuple[Upstream, Credential] | None:
        """The upstream and credential that made the task; None when they left the config."""
        upstream = self._config().upstreams.get(task.upstream)
        if upstream is None or upstream.provider != task.provider:
            return None
        for credential in upstream.credentials:
            if credential.name == task.credential:
                return upstream, credential
        return None

    def require_credential(self, task: Task) -> tuple[Upstream, Credential]:
        """The same for a download; raises what the client is to be told."""
        found = self.credential_of(task)
        if found is None:
            raise Unavailable(
                f"The upstream account that made video '{task.id}' is no longer configured; "
                "its operator has to bring it back.",
                code="upstream_removed",
            )
        return found

    def has_replicas(self, task: Task) -> bool:
        """Whether another server than the one that has the task may answer; True if unknown."""
        upstream = self._config().upstreams.get(task.upstream)
        return upstream is None or self._providers[task.provider].has_replicas(upstream)

    def slot(self, task: Task) -> AbstractAsyncContextManager[None]:
        """Room for one request at the task's credential; raises BulkheadFull when it has been too
        slow for too long."""
        patience_s = poll_patience_s(self._config().timeouts)
        return self.bulkhead.enter((task.upstream, task.credential), patience_s)

    # ------------------------------------------------------------ how it is doing

    async def poll(
        self, task: Task, upstream: Upstream, credential: Credential
    ) -> TaskState | Transient:
        """Ask once for the task's state; never raises for what the upstream does."""
        provider = self._providers[task.provider]
        answer = await self._query(task, provider.poll(task, upstream), upstream, credential)
        if answer is None:
            return Transient("no answer", kind="no_answer")
        return provider.state(task, answer.status, answer.headers, answer.body)

    def lookup(self, task: Task, upstream: Upstream) -> Draft | None:
        """The request that finds a submit by our id; None when the provider has none."""
        return self._providers[task.provider].find(task, upstream)

    async def find(
        self, task: Task, draft: Draft, upstream: Upstream, credential: Credential
    ) -> Outcome | Transient | None:
        """What a look-up says of a submit whose answer was lost; None: nothing."""
        found: Outcome | Transient | None = None
        async with self.slot(task):
            start_ns = self._tracing.now_ns()
            answer = await self._query(task, draft, upstream, credential)
        if answer is not None:
            found = self._providers[task.provider].found(answer.status, answer.headers, answer.body)
        word = "nothing" if found is None else type(found).__name__.lower()
        is_ok = isinstance(found, (Accepted, Refused))
        self._tracing.record_query(task, "find", upstream, start_ns, word, ok=is_ok)
        return found

    # ------------------------------------------------------------ results and cancelling

    async def renew(self, task: Task) -> Task:
        """Ask for fresh result URLs of a completed task whose old ones have expired.

        Returns the task unchanged when the provider has nothing newer; raises Forgotten when it
        does not know the task, UpstreamTrouble when it did not say.
        """
        upstream, credential = self.require_credential(task)
        provider = self._providers[task.provider]
        answer = await self._query(task, provider.poll(task, upstream), upstream, credential)
        if answer is None:
            raise UpstreamTrouble("fresh result URLs could not be had: no answer")
        state = provider.state(task, answer.status, answer.headers, answer.body)
        if isinstance(state, Transient):
            found = provider.found(answer.status, answer.headers, answer.body)
            if isinstance(found, Refused) or state.kind == "not_found":
                raise Forgotten("the provider does not know this task")
            raise UpstreamTrouble(f"fresh result URLs could not be had: {state.reason}")
        if state.status is Status.FAILED:  # it has dropped what it had made
            raise Forgotten("the provider no longer has this task's result")
        fresh = lifecycle.refreshed(task, state.results, self._now_ms())
        if fresh is None:
            return task
        try:
            other = await self._store.tasks.swap(task, fresh, None, None, self._retention_s())
        except Unavailable as down:  # the addresses are good all the same
            self._troubles.warning("fresh result URLs not recorded", task_id=task.id, why=str(down))
            return fresh
        return other or fresh

    def can_stop(self, task: Task) -> bool:
        """Whether there is a request that stops this task's render."""
        place = self.credential_of(task)
        if place is None or task.upstream_id is None:
            return False
        return self._providers[task.provider].cancel(task, place[0]) is not None

    async def cancel(self, task: Task, forwarded: Mapping[str, str]) -> Cancelled:
        """Ask the provider to stop a render: `stopped`, `will_finish` (it cannot stop a render,
        or refuses to), or `unknown`. `forwarded`: headers of the request that deleted the task."""
        found = self.credential_of(task)
        if task.upstream_id is None or found is None:
            return "unknown"
        upstream, credential = found
        provider = self._providers[task.provider]
        draft = provider.cancel(task, upstream)
        if draft is None:
            return "will_finish"
        answer = await self._query(task, draft, upstream, credential, forwarded)
        if answer is None:
            return "unknown"
        return provider.cancelled(task, upstream, answer.status, answer.headers, answer.body)

    async def _query(
        self,
        task: Task,
        draft: Draft,
        upstream: Upstream,
        credential: Credential,
        forwarded: Mapping[str, str] = NO_HEADERS,
    ) -> Answer | None:
        """None when no answer came."""
        provider = self._providers[task.provider]
        outbound = provider.seal(draft, upstream, credential, int(self._clock()))
        outbound.headers.update(forwarded)
        try:
            return await self._upstreams.query(upstream, outbound)
        except UpstreamTrouble as trouble:
            self._troubles.info(
                "upstream did not answer",
                about=f"{upstream.name} {type(trouble).__name__}",
                task_id=task.id,
                upstream=upstream.name,
                why=str(trouble),
            )
            return None
