"""Makes the registry of dialects, and refuses one that leaves a fact unsaid.

Rule: what a dialect lacks is found here, at import, and never by a request that fails for it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from proxy.dialects.base import AuthScheme, Dialect, Endpoint, FieldNames
from proxy.dialects.openapi import ApiDocs
from proxy.model import DialectName

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
# What each fact is an instance of. The order is the protocol's.
_FACTS: Final[Mapping[str, type]] = {
    "name": str,
    "title": str,
    "home": str,
    "endpoints": tuple,
    "path_prefixes": tuple,
    "field_names": FieldNames,
    "accepts_forms": bool,
    "request_id_in_body": bool,
    "notifies_every_change": bool,
    "has_external_ids": bool,
    "auth_schemes": frozenset,
    "decisive_native": frozenset,
    "idle_native": Mapping,
    "docs": ApiDocs,
}


class IncompleteDialectError(TypeError):
    """A dialect does not state all that the rest of the house asks of it."""


def registry_of(*dialects: Dialect) -> Mapping[DialectName, Dialect]:
    """The dialects by name. `IncompleteDialectError` says everything that one lacks."""
    found: dict[DialectName, Dialect] = {}
    for dialect in dialects:
        problems = list(_unsaid(dialect)) or list(_contradictions(dialect))
        if not problems and dialect.name in found:
            problems = [f"the name '{dialect.name}' is another dialect's"]
        if problems:
            kind = type(dialect)
            raise IncompleteDialectError(
                f"{kind.__module__}.{kind.__qualname__} is no whole dialect: {'; '.join(problems)}"
            )
        found[dialect.name] = dialect
    return MappingProxyType(found)


def _unsaid(dialect: Dialect) -> Iterator[str]:
    for fact, kind in _FACTS.items():
        value = getattr(dialect, fact, None)
        if value is None:
            yield f"it states no {fact}"
        elif not isinstance(value, kind):
            yield f"its {fact} is no {kind.__name__}"
    for name, method in inspect.getmembers(Dialect, inspect.isfunction):
        if not name.startswith("_") and not callable(getattr(dialect, name, None)):
            yield f"it has no {name}({', '.join(list(inspect.signature(method).parameters)[1:])})"


def _contradictions(dialect: Dialect) -> Iterator[str]:
    """Facts that are there and cannot be true together."""
    if not _NAME.fullmatch(dialect.name):
        yield f"its name '{dialect.name}' is not of lower-case letters, digits and _"
    if not dialect.endpoints:
        yield "it has no endpoints"
    for endpoint in dialect.endpoints:
        yield from _undescribed(dialect.docs, endpoint)
    schemes: Iterable[object] = dialect.auth_schemes
    for scheme in schemes:
        if not isinstance(scheme, AuthScheme):
            yield f"its auth_schemes hold {scheme!r}, which nobody can check"
    if len(dialect.docs.security) != len(dialect.auth_schemes):
        yield "its docs.security does not have one entry for each of its auth_schemes"
    if dialect.docs.failure not in dialect.docs.schemas:
        yield f"its docs have no schema '{dialect.docs.failure}'"


def _undescribed(docs: ApiDocs, endpoint: Endpoint) -> Iterator[str]:
    where = f"{endpoint.method} {endpoint.path}"
    try:
        described = docs.operation(endpoint.operation, endpoint.path)
    except KeyError:
        yield f"its docs do not describe {where}"
        return
    for name in (*described.answers, *filter(None, [described.body])):
        if name not in docs.schemas:
            yield f"its docs have no schema '{name}' for {where}"
