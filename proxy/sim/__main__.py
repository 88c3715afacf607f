"""`python -m proxy.sim`: the simulated upstreams as a process of their own."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from proxy.sim.settings import Settings
from proxy.sim.simulator import Simulator
from proxy.sim.vendors import SERVICES

_PR_SET_PDEATHSIG = 1


def main(argv: Sequence[str] | None = None, name: str = "python -m proxy.sim") -> int:
    """Runs until SIGTERM or SIGINT. Returns 1 when it cannot listen, with one line why. `name`:
    what it was called by."""
    parser = _parser(name)
    options = parser.parse_args(argv)
    try:
        ports = _ports(options.ports)
        if options.speed <= 0:
            raise ValueError("--speed must be above 0.")
    except ValueError as exc:
        parser.error(str(exc))
    if options.die_with_parent:
        _die_with_parent()
    settings = Settings(
        host=options.host,
        ports=ports,
        speed=options.speed,
        manual=options.manual,
        seed=options.seed,
        size_bytes=options.size_bytes,
        journal=options.journal,
    )
    try:
        asyncio.run(_run(settings, as_json=options.json))
    except OSError as exc:
        sys.stderr.write(f"cannot listen on {options.host}: {exc.strerror or exc}\n")
        return 1
    return 0


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name, description="Start the simulated upstreams, until Ctrl-C."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--ports",
        default="",
        metavar="NAME=PORT,…",
        help=f"fixed ports of {', '.join(SERVICES)}; the others take free ones",
    )
    parser.add_argument("--speed", type=float, default=1.0, help="1: a render takes 8-20 s")
    parser.add_argument("--manual", action="store_true", help="tasks move by control calls only")
    parser.add_argument("--seed", type=int, help="makes ids and durations repeatable")
    parser.add_argument("--size-bytes", type=int, help="size of results; default: a real clip")
    parser.add_argument("--journal", type=Path, help="a file to remember tasks in")
    parser.add_argument("--json", action="store_true", help="print one JSON line when ready")
    parser.add_argument(
        "--die-with-parent", action="store_true", help="end when the starting process ends"
    )
    return parser


def _ports(text: str) -> dict[str, int]:
    ports: dict[str, int] = {}
    for item in filter(None, text.split(",")):
        name, _, number = item.partition("=")
        if name not in SERVICES:
            raise ValueError(f"--ports: {name!r} is not one of {', '.join(SERVICES)}.")
        if not (number.isascii() and number.isdigit() and int(number) < 65536):
            raise ValueError(f"--ports: {number!r} is not a port.")
        ports[name] = int(number)
    return ports


def _die_with_parent() -> None:
    """SIGTERM from the kernel when the parent thread ends; at once if it already has."""
    import ctypes

    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(0)


async def _run(settings: Settings, *, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Simulator(settings) as simulator:
        told = simulator.describe()
        sys.stdout.write((json.dumps(told) if as_json else _friendly(told)) + "\n")
        sys.stdout.flush()
        await stop.wait()


def _friendly(told: dict[str, object]) -> str:
    lines = ["Simulated upstreams are ready:"]
    lines += [f"  {name:<12} {value}" for name, value in told.items() if name.endswith("_url")]
    keys = told["credentials"]
    assert isinstance(keys, dict)
    for service, named in keys.items():
        pairs = "  ".join(f"{name}={value}" for name, value in named.items())
        lines.append(f"  {service:<12} {pairs}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
