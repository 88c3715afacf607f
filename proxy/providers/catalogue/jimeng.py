"""Jimeng's models on Volcengine Visual.

Sources: the Jimeng pages of volcengine.com/docs (85621/1777001 and the 720P page, stored copies).
The 1080 sizes are on the 3.0 Pro page; those of 720p are the same renderer's published sizes (16:9
seen in real Jimeng answers as 1248x704). The picture siblings of 1080p are spelled without the p.
"""

from __future__ import annotations

from datetime import date

from proxy.model import Operation, Role
from proxy.providers.catalogue.row import ModelRow

RESULT_LIFE_S = 3600  # of the URL; the task's record lives 12 h

_RATIOS = ("16:9", "9:16", "4:3", "3:4", "1:1", "21:9")
_SIZES_720 = ("1248x704", "704x1248", "1120x832", "832x1120", "960x960", "1504x640")
_SIZES_1080 = ("1920x1088", "1088x1920", "1664x1248", "1248x1664", "1440x1440", "2176x928")


def _row(
    model: str,
    first: str | None = None,
    both: str | None = None,
    *,
    lines: str | None = None,
    sizes: tuple[str, ...] | None = None,
    seconds: tuple[int, ...] = (5, 10),
    ratios: tuple[str, ...] = _RATIOS,
    from_text: bool | None = True,
) -> ModelRow:
    roles = {Role.FIRST_FRAME: first, Role.LAST_FRAME: both}
    return ModelRow(
        provider="jimeng",
        model=model,
        with_first_frame=first,
        with_both_frames=both,
        operations=(Operation.CREATE,),
        seconds=seconds,
        default_seconds=5,
        fps=24,
        sizes=sizes,
        ratios=ratios,
        default_ratio="16:9",
        resolutions=None if lines is None else (lines,),
        audio="never",
        inputs=None if first is None else {role: 1 for role, name in roles.items() if name},
        from_text=from_text,
        n=1,
        prompt_chars=800,
        picture_bytes=4_700_000,  # "4.7 MB each"
        seed=True,
        negative_prompt=False,
        result_life_s=RESULT_LIFE_S,
        source="volcengine.com/docs/85621/1777001 and the 720P page",
        read_on=date(2026, 8, 1),
    )


ROWS = (
    _row(
        "jimeng_t2v_v30",
        "jimeng_i2v_first_v30",
        "jimeng_i2v_first_tail_v30",
        lines="720p",
        sizes=_SIZES_720,
    ),
    _row(
        "jimeng_t2v_v30_1080p",
        "jimeng_i2v_first_v30_1080",
        "jimeng_i2v_first_tail_v30_1080",
        lines="1080p",
        sizes=_SIZES_1080,
    ),
    _row("jimeng_ti2v_v30_pro", "jimeng_ti2v_v30_pro", lines="1080p", sizes=_SIZES_1080),
    _row(
        "jimeng_i2v_recamera_v30",
        "jimeng_i2v_recamera_v30",
        lines="720p",
        from_text=False,
    ),
    # One fixed length: five seconds.
    _row(
        "jimeng_vgfm_t2v_l20",
        "jimeng_vgfm_i2v_l20",
        ratios=(*_RATIOS, "9:21"),
        seconds=(5,),
    ),
    # A req_key newer than this file goes as it is.
    _row("*", from_text=None),
)
