"""Kling's models.

Lengths, sound and modes by model: Kling's API page (copy of 2026-08, artykrd/ai-bot-misha
docs/kling_full.md), "capability map". Every model takes a first and a last frame here; Kling
refuses the last one where a model or mode has none.
"""

from __future__ import annotations

from datetime import date

from proxy.model import Operation, Role
from proxy.providers.catalogue.row import ModelRow, Sound

RESULT_LIFE_S = 30 * 24 * 3600  # "deleted after 30 days"

_MODES = {"std": "720p", "pro": "1080p"}


def _row(
    model: str,
    *,
    seconds: tuple[int, ...] = (5, 10),
    audio: Sound = "never",
    from_text: bool = True,
    only: str | None = None,
) -> ModelRow:
    """`only`: the one resolution of a model that has no modes."""
    return ModelRow(
        provider="kling",
        model=model,
        operations=(Operation.CREATE,),
        seconds=seconds,
        default_seconds=5,
        ratios=("16:9", "9:16", "1:1"),
        default_ratio="16:9",
        modes={} if only else _MODES,
        resolutions=(only,) if only else None,
        audio=audio,
        inputs={Role.FIRST_FRAME: 1, Role.LAST_FRAME: 1},
        from_text=from_text,
        n=1,
        prompt_chars=2500,
        picture_bytes=10 * 1024 * 1024,
        picture_types=("image/jpeg", "image/jpg", "image/png"),
        seed=False,
        negative_prompt=True,
        result_life_s=RESULT_LIFE_S,
        source="Kling API page, copy in artykrd/ai-bot-misha docs/kling_full.md",
        read_on=date(2026, 8, 1),
    )


_LONG = tuple(range(3, 16))

ROWS = (
    _row("kling-v1"),
    _row("kling-v1-5", from_text=False),
    _row("kling-v1-6"),
    _row("kling-v2-master", only="720p"),
    _row("kling-v2-1", from_text=False),
    _row("kling-v2-1-master", only="1080p"),
    _row("kling-v2-5-turbo"),
    _row("kling-v2-6", audio="option"),
    _row("kling-v3", seconds=_LONG, audio="option"),
    # A model newer than this file: the widest known range, and the provider judges the rest.
    _row("*", seconds=_LONG, audio="option"),
)
