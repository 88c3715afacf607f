"""A route's rewrites on a draft: what the operator sets, always sets, and never sends.

They apply in this order: `defaults` where the field is absent or null, then `overrides`, then
`remove`. A name is a field of the body, or a path into its objects with dots
(`watermark_info.enabled`). A value is put in whole: a table replaces an object, it is not
merged into it. What a route may not touch is refused when the configuration is read.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import cast

from proxy.errors import Invalid
from proxy.http.outbound import Draft, DraftValue
from proxy.model import Json, Route


def rewrite(draft: Draft, route: Route) -> Draft:
    """The draft as this route sends it. A draft without a body stays as it is."""
    if draft.encoding == "none" or not (route.defaults or route.overrides or route.remove):
        return draft
    fields = dict(draft.fields)
    for name, value in route.defaults.items():
        _set_default(fields, name.split("."), value)
    for name, value in route.overrides.items():
        _override(fields, name.split("."), value)
    for name in route.remove:
        _remove(fields, name.split("."))
    return replace(draft, fields=fields)


def enforce_fit(draft: Draft, route: Route) -> None:
    """`Invalid` when a route with `fit = "exact"` would render other than asked."""
    if route.fit != "exact" or not (draft.adjusted or draft.dropped):
        return
    wishes = [f"'{a.field}' {a.asked} would become {a.given}" for a in draft.adjusted]
    wishes += [f"'{name}' cannot be passed on" for name in draft.dropped]
    raise Invalid(
        f"Model '{route.model}' renders exactly what is asked or nothing: {'; '.join(wishes)}.",
        param=draft.adjusted[0].field if draft.adjusted else draft.dropped[0],
    )


# Objects inside the draft are shared with the request it was made from: each is copied on
# the way down, and a route's own values are copied in.


def _set_default(fields: dict[str, DraftValue], path: list[str], value: Json) -> None:
    name, *rest = path
    present = fields.get(name)
    if not rest:
        if present is None:
            fields[name] = _copied(value)
    elif present is None or isinstance(present, dict):
        inner = dict(present or {})
        _set_default(inner, rest, value)
        fields[name] = inner


def _override(fields: dict[str, DraftValue], path: list[str], value: Json) -> None:
    name, *rest = path
    if not rest:
        fields[name] = _copied(value)
        return
    present = fields.get(name)
    inner = dict(present) if isinstance(present, dict) else {}
    _override(inner, rest, value)
    fields[name] = inner


def _remove(fields: dict[str, DraftValue], path: list[str]) -> None:
    name, *rest = path
    if not rest:
        fields.pop(name, None)
        return
    present = fields.get(name)
    if isinstance(present, dict):
        inner = dict(present)
        _remove(inner, rest)
        fields[name] = inner


def _copied(value: Json) -> DraftValue:
    # list and dict are invariant, so a Json list is no DraftValue list to the type checker.
    return cast("DraftValue", deepcopy(value))
