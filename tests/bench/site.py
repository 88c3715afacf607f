"""The ground of a run: a directory in memory, the video, a certificate, the upstream."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from tests.bench.needs import BenchError, Cores, find
from tests.bench.procs import Process, free_ports, spawn, wait_port

VIDEO_BYTES: Final = 64 << 20
CONFIGS: Final = Path(__file__).parent / "configs"
ROOT: Final = Path(__file__).parents[2]

_QUEUED = '{"id":"up1","object":"video","model":"m","status":"queued","progress":0}'
_COMPLETED = (
    '{"id":"up1","object":"video","model":"m","status":"completed","progress":100,'
    '"seconds":"4","size":"1280x720"}'
)


@dataclass(frozen=True, slots=True)
class Site:
    work: Path
    cores: Cores
    plain: int  # the upstream's ports
    tls: int
    sha256: str

    def config(self, template: str, name: str, values: Mapping[str, object]) -> Path:
        """Fill a file of `configs/` and write it to the site as `name`."""
        path = self.work / name
        text = (CONFIGS / template).read_text()
        # A worker of a root-owned nginx would be nobody, who cannot read the site.
        user = "user root;" if os.geteuid() == 0 else ""
        given = {"work": self.work, "plain": self.plain, "tls": self.tls, "user": user, **values}
        path.write_text(Template(text).substitute(given))
        return path

    def nginx(
        self,
        stack: contextlib.ExitStack,
        name: str,
        template: str,
        core: int,
        port: int,
        values: Mapping[str, object] | None = None,
    ) -> Process:
        path = self.config(template, f"{name}.nginx.conf", {"port": port, **(values or {})})
        argv = [find("nginx") or "nginx", "-p", str(self.work), "-c", str(path), "-e", "stderr"]
        process = spawn(stack, name, argv, [core], self.work / f"{name}.log")
        wait_port(process, port)
        return process


@contextlib.contextmanager
def open_site(cores: Cores) -> Iterator[Site]:
    """The upstream runs until the block ends; then everything on disk goes too."""
    with contextlib.ExitStack() as stack:
        work = Path(tempfile.mkdtemp(prefix="reelway-bench-", dir="/dev/shm"))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        if os.statvfs(work).f_bavail * os.statvfs(work).f_frsize < 4 * VIDEO_BYTES:
            raise BenchError(f"/dev/shm has less than {4 * VIDEO_BYTES >> 20} MiB free")
        piece = os.urandom(1 << 20)
        digest = hashlib.sha256()
        with (work / "video.mp4").open("wb") as file:
            for number in range(VIDEO_BYTES >> 20):
                # Begins as a video: what does not is a 502.
                block = number.to_bytes(4, "big") + b"ftypisom" + piece[12:]
                digest.update(block)
                file.write(block)
        _certify(work)
        plain, tls = free_ports(2)
        site = Site(work, cores, plain, tls, digest.hexdigest())
        values = {"queued": _QUEUED, "completed": _COMPLETED}
        site.nginx(stack, "upstream", "upstream.nginx.conf", cores.load, plain, values)
        yield site


def _certify(work: Path) -> None:
    """A certificate for 127.0.0.1 that every contender is told to trust, and checks."""
    argv = [find("openssl") or "openssl", "req", "-x509", "-nodes", "-days", "2"]
    argv += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    argv += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    argv += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    argv += ["-keyout", str(work / "key.pem"), "-out", str(work / "cert.pem")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise BenchError(f"openssl made no certificate: {done.stderr.strip()}")
