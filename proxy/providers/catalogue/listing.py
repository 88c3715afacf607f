"""What a model takes, in the words of our own API: the `video` member of a listed model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from proxy.model import Json, Operation
from proxy.providers.catalogue.row import ModelRow

# The most of a resolution, size or length that is listed: nobody reads more, and pages stay small.
_MANY = 64


def video_of(rows: Sequence[ModelRow]) -> dict[str, Json]:
    """What a request may ask of a model that these rows describe, one for each upstream that may
    take it: what any of them renders. null: unknown, or whatever is asked."""
    return {
        "operations": _all(rows, lambda row: row.operations and [op.value for op in row.operations])
        or [Operation.CREATE.value],
        "seconds": _all(rows, lambda row: row.seconds),
        "max_seconds": _longest(rows),
        "default_seconds": _same(rows, lambda row: row.default_seconds),
        "sizes": _all(rows, lambda row: row.sizes),
        "default_size": _same(rows, lambda row: row.default_size),
        "ratios": _all(rows, lambda row: row.ratios),
        "resolutions": _all(rows, resolutions_of),
        "modes": _all(rows, lambda row: None if row.modes is None else list(row.modes)),
        "audio": sound_of(rows),
        "inputs": _inputs(rows),
        "fps": _same(rows, lambda row: row.fps),
    }


def resolutions_of(row: ModelRow) -> list[str] | None:
    """The resolutions it renders, by a mode or without."""
    return [f"{lines}p" for lines in dict.fromkeys(lines for _, lines in row.lines)] or None


def sound_of(rows: Sequence[ModelRow]) -> str | None:
    """`never`, `option` or `always` where they agree; `option` where they differ."""
    said = {row.audio for row in rows}
    if None in said or not said:
        return None
    return next(iter(said)) if len(said) == 1 else "option"


def _all(
    rows: Iterable[ModelRow], fact: Callable[[ModelRow], Iterable[str | int] | None]
) -> list[Json] | None:
    """Every value that one of them accepts; None where one of them accepts anything."""
    found: dict[str | int, None] = {}
    for row in rows:
        values = fact(row)
        if values is None:
            return None
        found |= dict.fromkeys(values)
    kept = list(found)[:_MANY]
    whole = [value for value in kept if isinstance(value, int)]
    return list[Json](sorted(whole)) if len(whole) == len(kept) else list[Json](kept)


def _same(rows: Iterable[ModelRow], fact: Callable[[ModelRow], Json]) -> Json:
    """What they all say; None where they differ."""
    said = [fact(row) for row in rows]
    return said[0] if said and all(value == said[0] for value in said) else None


def _longest(rows: Iterable[ModelRow]) -> int | None:
    """The longest video; None where nobody says."""
    found = [max(row.seconds) if row.seconds else row.max_seconds for row in rows]
    known = [seconds for seconds in found if seconds is not None]
    return max(known) if known and len(known) == len(found) else None


def _inputs(rows: Sequence[ModelRow]) -> dict[str, Json] | None:
    """The most of each role that one of them takes; None where one of them is unknown."""
    found: dict[str, Json] = {}
    for row in rows:
        if row.inputs is None:
            return None
        for role, most in row.inputs.items():
            before = found.get(role.value, 0)
            found[role.value] = max(most, before if isinstance(before, int) else 0)
    return {role: most for role, most in found.items() if most}
