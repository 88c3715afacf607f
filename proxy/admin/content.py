"""A task's video under the admin port's own origin, so that the console may show it.

Rule: who may see it is not decided here. The query's signature goes to the clients' port as it
came, and what that port answers goes to the viewer: ranges, conditions, refusals and all. Chunks
move one at a time: the next is read when the viewer's socket has taken the last. A body that
breaks is cut, never ended, and a viewer that leaves ends it (the handler is cancelled).
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode

from aiohttp import ClientError, web
from multidict import CIMultiDict

from proxy.admin.context import AdminContext
from proxy.errors import Invalid

PATH: Final = "/api/tasks/{id}/content"
QUERY: Final = ("variant", "index", "exp", "sig", "download")
_ASKED: Final = ("Range", "If-Range", "If-None-Match", "If-Modified-Since", "If-Match")
_TOLD: Final = (
    *("Content-Type", "Content-Length", "Content-Range", "Accept-Ranges", "ETag"),
    *("Last-Modified", "Cache-Control", "Content-Disposition", "Retry-After", "X-Request-Id"),
)


async def stream(context: AdminContext, request: web.Request) -> web.StreamResponse:
    target = f"/v1/videos/{quote(request.match_info['id'], safe='')}/content?{_query(request)}"
    headers = {name: request.headers[name] for name in _ASKED if name in request.headers}
    async with context.data_port.ask(request.method, target, headers) as answer:
        told = CIMultiDict((n, answer.headers[n]) for n in _TOLD if n in answer.headers)
        response = web.StreamResponse(status=answer.status, headers=told)
        await response.prepare(request)
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
        except (ClientError, TimeoutError) as exc:
            if request.transport is not None and not request.transport.is_closing():
                context.log.warning(
                    "console video cut",
                    task_id=request.match_info["id"],
                    why=type(exc).__name__,
                )
                request.transport.abort()
            return response
        await response.write_eof()
        return response


def _query(request: web.Request) -> str:
    for name in request.query:
        if name not in QUERY or len(request.query.getall(name)) > 1:
            raise Invalid(
                f"The query parameter '{name[:80]}' is unknown or there twice; accepted, each "
                f"once: {', '.join(QUERY)}.",
                param=name,
            )
    if "sig" not in request.query or "exp" not in request.query:
        raise Invalid("'exp' and 'sig' are required: take the task's 'content_url'.", param="sig")
    return urlencode(list(request.query.items()))
