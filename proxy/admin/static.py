"""The console's files: read once, served by their names, and nothing else is.

They hold no data and no secret, so they stand open; the scripts in them ask /api/ with the token
that the operator types in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Final

from aiohttp import web

from proxy.errors import NotFound

INDEX: Final = "index.html"
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "png": "image/png",
    "ico": "image/x-icon",
    "woff2": "font/woff2",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; font-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    content_type: str
    etag: str


class Console:
    """The files in `folder` and its sub-folders whose type is known."""

    def __init__(self, folder: Traversable) -> None:
        self._files: dict[str, _File] = {}
        if folder.is_dir():
            self._take(folder, "")

    def _take(self, folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            content_type = _TYPES.get(entry.name.rpartition(".")[2])
            if entry.is_dir():
                self._take(entry, f"{prefix}{entry.name}/")
            elif content_type is not None:
                body = entry.read_bytes()
                etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
                self._files[prefix + entry.name] = _File(body, content_type, etag)

    @property
    def names(self) -> list[str]:
        return sorted(self._files)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """`/` is the index; `/console/<name>` every file by its name."""
        file = self._files.get(request.match_info.get("name", INDEX))
        if file is None:
            raise NotFound("The console has no such file.")
        headers = {
            "Content-Type": file.content_type,
            "ETag": file.etag,
            "Cache-Control": "no-cache",
            "Content-Security-Policy": POLICY,
        }
        known = request.headers.get("If-None-Match", "")
        if file.etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, headers=headers)
