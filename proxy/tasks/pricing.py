"""What a render costs: from the final draft's `Rendered`, in integer micro-units.

A route's price is `per_second`, `per_video`, or both. Each is an amount, or amounts by case:

    price = { per_second = { "720p" = "0.05", "1080p" = "0.08", "1080p+audio" = "0.12" } }

A case is made of words joined by `+`: the resolution (`720p`), the mode (`std`, `pro`), `audio`,
or `other` for what no case names. The case with the most words that all hold decides; where
several have as many, the dearest. What a provider has not said is priced at the dearest case, so
that nothing renders for less than it costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal

from proxy.errors import Invalid
from proxy.http.outbound import Rendered
from proxy.model import Json

MICRO = Decimal(1_000_000)
OTHER = "other"
# Short sides of frames by what vendors call them; a frame in between is the next one up.
_RESOLUTIONS = ((480, "480p"), (576, "576p"), (768, "720p"), (1088, "1080p"), (1440, "1440p"))
_LARGEST = "4k"


def price_micro(price: Mapping[str, Json], rendered: Rendered) -> int:
    """The whole task, every video of it at its longest, rounded up once. Raises `Invalid` when
    the price goes by seconds and nobody has said how many."""
    words = words_of(rendered)
    amount = Decimal(0)
    if "per_second" in price:
        lengths = [s for s in (rendered.seconds, rendered.most_seconds) if s is not None]
        if not lengths:
            raise Invalid("The price of this model goes by seconds: say how many.", param="seconds")
        amount += _amount(price["per_second"], words) * Decimal(str(max(lengths)))
    if "per_video" in price:
        amount += _amount(price["per_video"], words)
    return int((amount * MICRO * max(1, rendered.n)).to_integral_value(ROUND_CEILING))


def settle_micro(hold_micro: int, price: Mapping[str, Json], delivered: Rendered) -> int:
    """What a finished task costs: as delivered at the price of its day, never more than held."""
    if delivered.seconds is None and "per_second" in price:
        return hold_micro
    return min(hold_micro, price_micro(price, delivered))


def words_of(rendered: Rendered) -> frozenset[str] | None:
    """The words a case may be made of; None when the resolution is not known."""
    if rendered.size is None:
        return None
    words = {resolution_of(rendered.size)}
    if rendered.mode is not None:
        words.add(rendered.mode)
    if rendered.audio:
        words.add("audio")
    return frozenset(words)


def resolution_of(size: tuple[int, int]) -> str:
    short = min(size)
    return next((name for most, name in _RESOLUTIONS if short <= most), _LARGEST)


def money(micro: int) -> str:
    """Micro-units as a decimal amount: `0.35`, at least two decimals, never an exponent."""
    sign = "-" if micro < 0 else ""
    whole, rest = divmod(abs(micro), 1_000_000)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{decimals}"


def _amount(value: Json, words: frozenset[str] | None) -> Decimal:
    if not isinstance(value, dict):
        return Decimal(str(value))
    amounts = {case: Decimal(str(amount)) for case, amount in value.items()}
    if words is None:
        return max(amounts.values(), default=Decimal(0))
    fitting = {
        case: amount
        for case, amount in amounts.items()
        if case != OTHER and frozenset(case.split("+")) <= words
    }
    if not fitting:
        return amounts.get(OTHER, max(amounts.values(), default=Decimal(0)))
    most = max(_count(fitting))
    return max(amount for case, amount in fitting.items() if case.count("+") == most)


def _count(cases: Iterable[str]) -> list[int]:
    return [case.count("+") for case in cases]
