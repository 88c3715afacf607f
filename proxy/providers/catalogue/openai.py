"""Models known to be behind OpenAI's Videos API.

Rule: a server of OpenAI's kind may serve anything under any name, so these rows inform and never
refuse: what a client asks for is fitted to the upstream's `options` and the operator's own rows.
"""

from __future__ import annotations

from datetime import date

from proxy.model import Operation, Role
from proxy.providers.catalogue.row import ModelRow

_HD = ("720x1280", "1280x720")
_LARGER = ("1024x1792", "1792x1024")


def _sora(model: str, sizes: tuple[str, ...], price: dict[str, str], *aliases: str) -> ModelRow:
    return ModelRow(
        provider="openai",
        model=model,
        aliases=aliases,
        operations=(Operation.CREATE, Operation.REMIX, Operation.EDIT, Operation.EXTEND),
        seconds=(4, 8, 12),
        default_seconds=4,
        sizes=sizes,
        default_size="720x1280",
        audio="always",
        inputs={Role.FIRST_FRAME: 1},
        from_text=True,
        n=1,
        price=price,
        source="openai-openapi openapi.yaml (2026-08-21); prices: third-party pages (2025-10)",
        read_on=date(2026, 11, 30),
    )


ROWS = (
    _sora("sora-2", _HD, {"per_second": "0.10 USD"}, "sora-2-2025-10-06", "sora-2-2025-12-08"),
    _sora(
        "sora-2-pro",
        (*_HD, *_LARGER),
        {"per_second": "0.30 USD", "per_second, 1024x1792 and 1792x1024": "0.50 USD"},
        "sora-2-pro-2025-10-06",
    ),
)
