"""The addresses of finished videos that clients are handed: always ours, never the provider's.

They are built from `public_url`, never from a Host header. A link's end is fixed by its task,
so that the same status answer is the same bytes every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urlencode

from proxy.caches import IdentityMemo
from proxy.model import Stage, Task
from proxy.signing import sign_link
from proxy.tasks.lifecycle import RESULT_LIFE_MS

KEPT = 4096  # tasks whose links are not signed again at every poll


class Links:
    """Signs with the first of `secrets`, the one in use."""

    def __init__(self, secrets: Sequence[bytes], public_url: Callable[[], str]) -> None:
        self._secrets = secrets
        self._public_url = public_url
        self._made: IdentityMemo[tuple[tuple[str, ...], str]] = IdentityMemo(KEPT)

    def of(self, task: Task) -> tuple[tuple[str, ...], str]:
        """The signed link of each result, and the plain URL for bearer holders."""
        if task.stage is not Stage.COMPLETED:
            return (), ""
        url = self._public_url()
        return self._made.get(task.id, (task, url), lambda: self._make(task, url))

    def _make(self, task: Task, url: str) -> tuple[tuple[str, ...], str]:
        plain = f"{url}/v1/videos/{task.id}/content"
        exp_s = self.exp_s(task)
        signed = []
        for index in range(len(task.results)):
            sig = sign_link(self._secrets[0], task.id, "video", index, exp_s)
            query = {"variant": "video", "index": index, "exp": exp_s, "sig": sig}
            signed.append(f"{plain}?{urlencode(query)}")
        return tuple(signed), plain

    @staticmethod
    def exp_s(task: Task) -> int:
        """When the task's links end, in seconds since the epoch."""
        ends_ms = task.expires_ms or (task.completed_ms or task.created_ms) + RESULT_LIFE_MS
        return ends_ms // 1000
