"""`python -m tests.bench`: run the measures and write what they found.

A whole run writes results.md, results.svg and results.json; a quick or partial one writes them
only where `--out` says.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import needs
from tests.bench.chart import draw
from tests.bench.measures import MEASURES, QUICK, Plan, say
from tests.bench.results import Table, judge, markdown
from tests.bench.site import ROOT, open_site

DEFAULT_OUT = ROOT / "docs" / "benchmarks"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench BENCH_ARGS=…", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run: its figures mean nothing"
    )
    parser.add_argument(
        "--only", default="", help=f"measures by comma, of: {', '.join(MEASURES)} (default: all)"
    )
    parser.add_argument("--reps", type=int, help="repetitions (default: 3)")
    parser.add_argument(
        "--out", type=Path, help="where to write (default of a whole run: docs/benchmarks)"
    )
    options = parser.parse_args(argv)
    options.only = [name for name in options.only.split(",") if name] or list(MEASURES)
    unknown = [name for name in options.only if name not in MEASURES]
    if unknown:
        parser.error(f"no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    if options.reps is not None and options.reps < 1:
        parser.error("--reps must be at least 1")
    return options


def run(options: argparse.Namespace) -> dict[str, Table]:
    cores = needs.require()
    machine, versions = needs.machine(), needs.versions()
    plan = QUICK if options.quick else Plan()
    if options.reps is not None:
        plan = replace(plan, reps=options.reps)
    tables: dict[str, Table] = {}
    with open_site(cores) as site:
        for name in options.only:
            say(f"==> {name}")
            tables |= {table.key: table for table in MEASURES[name](site, plan)}
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    is_whole = not options.quick and options.only == list(MEASURES)
    arguments = "" if is_whole else " (a quick or partial run, not a result)"
    text = markdown(machine, versions, tables, made, arguments)
    print(text)
    out = options.out or (DEFAULT_OUT if is_whole else None)
    if out is None:
        return tables
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.md").write_text(text)
    caption = f"{machine['cpu']}, kernel {machine['kernel']}, {made}{arguments}"
    (out / "results.svg").write_text(draw(tables, caption))
    found = {
        "made": made,
        "machine": machine,
        "versions": versions,
        "plan": asdict(plan),
        "tables": {key: asdict(table) for key, table in tables.items()},
        "bars": [asdict(verdict) for verdict in judge(tables)],
    }
    (out / "results.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    say(f"written to {out}")
    return tables


def _complain(tables: dict[str, Table]) -> None:
    """What was measured stands, but a gateway that fails under load fails the run."""
    failures = [failure for table in tables.values() for failure in table.failures]
    ours = [failure for failure in failures if failure.startswith("gateway")]
    if ours:
        raise needs.BenchError(f"{len(ours)} measurements failed:\n  " + "\n  ".join(ours))


def main() -> None:
    options = parse(None)
    # What runs is ended by blocks that end: a signal has to unwind them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _complain(run(options))
    except needs.BenchError as fault:
        sys.exit(f"bench: {fault}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
