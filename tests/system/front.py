"""nginx with the file we ship, as a child in the foreground in a directory of its own."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.rig.eventually import eventually
from tests.system.ports import free_ports

_AROUND = """\
daemon off;
{user}
worker_processes 1;
pid nginx.pid;
error_log startup.log notice;
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include reelway.conf;
}}
"""


@dataclass(frozen=True, slots=True)
class Front:
    """A running nginx. `certificate` is the one it shows: clients trust it."""

    url: str
    certificate: Path
    folder: Path
    pid: int

    def worker(self) -> int:
        """The pid of the process that carries the bytes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(children[0])

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificate)

    def logs(self) -> str:
        """All it has logged."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """What a test has to change in a file we ship; each must be in it."""
    for old, new in changes.items():
        assert old in text, f"not in the file any more: {old!r}"
        text = text.replace(old, new)
    return text


@asynccontextmanager
async def nginx(
    tool: Callable[[str], str],
    shipped: Path,
    folder: Path,
    certificate: tuple[Path, Path],
    servers: Sequence[str],
) -> AsyncIterator[Front]:
    """In front of `servers` (address and what nginx may know of it, as in `… backup`)."""
    (port,) = free_ports(1)
    _lay_out(shipped, folder, certificate, servers, port)
    log = folder / "startup.log"
    process = await asyncio.create_subprocess_exec(
        *(tool("nginx"), "-p", str(folder), "-c", "nginx.conf", "-e", "startup.log"),
        stdin=asyncio.subprocess.DEVNULL,
    )
    try:
        await eventually(lambda: process.returncode is not None or _listens(port))
        assert process.returncode is None, log.read_text()
        yield Front(f"https://localhost:{port}", certificate[0], folder, process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _lay_out(
    shipped: Path,
    folder: Path,
    certificate: tuple[Path, Path],
    servers: Sequence[str],
    port: int,
) -> None:
    folder.mkdir()
    public, private = certificate
    gateways = " ".join(f"server {server};" for server in servers)
    config = replaced(
        (shipped / "nginx" / "reelway.conf").read_text(),
        {
            "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
            "listen [::]:443 ssl http2;": "",
            "server_name video.example.com;": "server_name localhost;",
            "/etc/ssl/reelway/fullchain.pem": str(public),
            "/etc/ssl/reelway/privkey.pem": str(private),
            "/var/log/nginx/": "",
            "server 127.0.0.1:8080;": gateways,
        },
    )
    (folder / "reelway.conf").write_text(config)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(_AROUND.format(user=user))


def _listens(port: int) -> bool:
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "0A" for row in rows)


def memory(pid: int, field: str) -> int:
    """Bytes: `VmRSS` now, `VmHWM` at its highest since `forget_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} is gone, or has no {field}")


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")
