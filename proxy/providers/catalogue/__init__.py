"""What is known of models: rows of data, one file a provider, each with its source.

The adapters read the built-in rows through `row_of`, where a row of the operator's (`[[models]]`)
wins over a built-in one, field by field.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.model import Upstream
from proxy.providers import globs
from proxy.providers.catalogue.row import ModelRow

# What says which model a row is about, and no fact of it.
_IDENTITY = frozenset({"provider", "model", "aliases"})


def row_of(builtin: Sequence[ModelRow], upstream: Upstream, model: str) -> ModelRow:
    """All that is known of a model at an upstream; an empty row where nothing is."""
    base = _first(builtin, model) or _nothing(upstream, model)
    told = _told(upstream, model)
    if told is None:
        return base
    return base.model_copy(
        update={
            name: value
            for name in ModelRow.model_fields
            if name not in _IDENTITY and (value := getattr(told, name)) is not None
        }
    )


def operators_row(upstream: Upstream, model: str) -> ModelRow:
    """What the operator's own rows say of a model; an empty row where they say nothing."""
    return _told(upstream, model) or _nothing(upstream, model)


def _told(upstream: Upstream, model: str) -> ModelRow | None:
    return _first([row for row in upstream.models if isinstance(row, ModelRow)], model)


def _nothing(upstream: Upstream, model: str) -> ModelRow:
    return ModelRow(provider=upstream.provider, model=model)


def _first(rows: Sequence[ModelRow], model: str) -> ModelRow | None:
    """The row that names the model; else the first whose glob does."""
    named = (row for row in rows if model in row.names)
    wide = (row for row in rows if globs.matches(row.model, model))
    return next(named, None) or next(wide, None)
