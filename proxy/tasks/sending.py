"""One attempt's request: sealed, sent once, and its answer read.

Rule: a request is sent once. What the upstream provably did not get is Refused, what nobody can
say is Unknown, and neither is sent again from here.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.errors import Ambiguous, NotSent, UpstreamUnreachable
from proxy.http.outbound import Outbound
from proxy.model import Task, submit_key
from proxy.providers.outcomes import Outcome, Refused, Unknown
from proxy.tasks.offload import offload
from proxy.tasks.planning import Attempt, SubmitPlan
from proxy.tasks.runtime import Runtime
from proxy.telemetry.rate_limited_log import RateLimitedLog
from proxy.upstream import Upstreams


class AttemptSender:
    """Sends attempts. `troubles` is the log of what repeats."""

    def __init__(self, runtime: Runtime, upstreams: Upstreams, troubles: RateLimitedLog) -> None:
        self._tracing = runtime.tracing
        self._clock = runtime.clock
        self._upstreams = upstreams
        self._troubles = troubles

    async def seal(
        self, task: Task, attempt: Attempt, plan: SubmitPlan, fetched_bytes: int
    ) -> Outbound:
        """The request of the task's next attempt: serialised, signed, with the client's headers.
        `fetched_bytes`: what was fetched for it beside the client's request."""
        headers = self._tracing.attempt_headers(task, plan.forwarded)
        key = submit_key(task.id, task.attempt + 1)
        return await offload(plan.size + fetched_bytes, self._seal, attempt, headers, key)

    def _seal(self, attempt: Attempt, forwarded: Mapping[str, str], key: str) -> Outbound:
        outbound = attempt.provider.seal(
            attempt.draft, attempt.upstream, attempt.credential, int(self._clock())
        )
        outbound.headers.update(forwarded)
        if attempt.provider.key_header is not None:
            outbound.headers[attempt.provider.key_header] = key
        return outbound

    async def send(self, task: Task, attempt: Attempt, outbound: Outbound) -> Outcome:
        """Send it now; never raises for what the upstream does."""
        start_ns = self._tracing.now_ns()
        outcome, status = await self._submit(task, attempt, outbound)
        self._tracing.record_submit(task, outbound, start_ns, status, outcome)
        return outcome

    async def _submit(
        self, task: Task, attempt: Attempt, outbound: Outbound
    ) -> tuple[Outcome, int | None]:
        """The outcome of a submit, and the status of its answer if there was one."""
        upstream = attempt.upstream.name
        try:
            answer = await self._upstreams.submit(attempt.upstream, outbound)
        except NotSent as error:
            self._troubles.warning(
                "upstream unreachable",
                about=upstream,
                task_id=task.id,
                upstream=upstream,
                why=str(error),
            )
            failure = UpstreamUnreachable(
                f"The upstream '{upstream}' cannot be reached; nothing was submitted.",
                retry_after_s=5,
            )
            return Refused(failure, elsewhere=True), None
        except Ambiguous as error:
            return Unknown(str(error)), None
        self._troubles.ended(
            "upstream unreachable", "upstream reachable again", about=upstream, upstream=upstream
        )
        outcome = attempt.provider.outcome(
            answer.status, answer.headers, answer.body, attempt.upstream
        )
        return outcome, answer.status
