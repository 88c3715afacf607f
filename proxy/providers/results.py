"""Where a finished video's bytes are, by what its task remembers."""

from __future__ import annotations

from proxy.errors import NotFound, NotReady
from proxy.model import Task


def result_url(task: Task, variant: str, index: int) -> str:
    """The URL a provider gave for one result. `variant` "video" is the result itself."""
    if not task.results:
        raise NotReady("The video is not ready yet.")
    if not 0 <= index < len(task.results):
        last = len(task.results) - 1
        raise NotFound(f"'index' {index} is not there: 0 to {last} are.", param="index")
    result = task.results[index]
    url = result.url if variant == "video" else result.variants.get(variant)
    if url is None:
        known = ", ".join(["video", *sorted(result.variants)])
        raise NotFound(
            f"This video has no variant {variant[:40]!r}; it has: {known}.", param="variant"
        )
    return url
