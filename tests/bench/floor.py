"""What aiohttp does out of the box: the floor the gateway stands on.

`python -m tests.bench.floor PORT PLAIN_PORT TLS_PORT ANSWER`: the file ANSWER at /v1/videos/…, and
a proxy of the two upstreams at /plain/… and /tls/…, with nothing of the gateway in it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

SESSION = web.AppKey("session", ClientSession)


def make_app(plain: int, tls: int, answer: bytes) -> web.Application:
    async def status(_request: web.Request) -> web.Response:
        return web.Response(body=answer, content_type="application/json")

    async def proxy(request: web.Request) -> web.StreamResponse:
        base = f"http://127.0.0.1:{plain}"
        if request.path.startswith("/tls/"):
            base = f"https://127.0.0.1:{tls}"
        wanted = {"Range": request.headers["Range"]} if "Range" in request.headers else {}
        session = request.app[SESSION]
        async with session.get(base + request.path, headers=wanted) as upstream:
            reply = web.StreamResponse(status=upstream.status)
            for name in ("Content-Type", "Content-Length", "Content-Range"):
                if name in upstream.headers:
                    reply.headers[name] = upstream.headers[name]
            await reply.prepare(request)
            async for chunk in upstream.content.iter_any():
                await reply.write(chunk)
            await reply.write_eof()
        return reply

    async def one_session(app: web.Application) -> AsyncIterator[None]:
        # Its two defaults that would break off or queue downloads are lifted, nothing else is.
        connector = TCPConnector(limit=0)
        async with ClientSession(connector=connector, timeout=ClientTimeout(total=None)) as session:
            app[SESSION] = session
            yield

    app = web.Application()
    app.cleanup_ctx.append(one_session)
    app.router.add_get("/v1/videos/{id}", status)
    app.router.add_get("/plain/{name}", proxy)
    app.router.add_get("/tls/{name}", proxy)
    return app


def main() -> None:
    port, plain, tls = (int(text) for text in sys.argv[1:4])
    app = make_app(plain, tls, Path(sys.argv[4]).read_bytes())
    web.run_app(
        app, host="127.0.0.1", port=port, access_log=None, print=None, loop=uvloop.new_event_loop()
    )


if __name__ == "__main__":
    main()
