"""A client's body and its `metadata`, looked up by what a field means, not by its spelling.

Rule: a field whose folded name is one of ours is ours. It is read, or it is a 400; it never stays
among the unknown fields, for the servers behind us fold names as well, and would obey it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from proxy.dialects.fields import Fields, folded, is_unset, kind_of, shown
from proxy.errors import Invalid
from proxy.http.documents import json_value
from proxy.model import Json

T = TypeVar("T")

_BRACKETED = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])+)")
_MAX_PARTS = 5  # of a bracketed name, as in a form
_JSON_CHARS = 1 << 20  # of a list or object that comes as its text


@dataclass(frozen=True, slots=True)
class Found:
    """One field that the client sent, in the layer it stands in."""

    layer: Fields
    name: str

    @property
    def param(self) -> str:
        return self.layer.prefix + self.name

    @property
    def value(self) -> object:
        return self.layer.one(self.name)

    @property
    def raw(self) -> object:
        return self.layer.raw(self.name)


class BodyFields:
    """The fields of a request: its top level, then its `metadata`."""

    __slots__ = ("_by_fold", "metadata", "top")

    def __init__(self, fields: Fields) -> None:
        self.top = _unflattened(fields)
        self.metadata = _metadata_of(self.top)
        self._by_fold: dict[str, list[Found]] = {}
        for layer in (self.top, self.metadata):
            for name in layer.values:
                self._by_fold.setdefault(folded(name), []).append(Found(layer, name))

    def found(self, names: Sequence[str]) -> Iterator[Found]:
        """The fields under these folded names that the client set, top level first. All of them
        count as read."""
        both = [each for name in names for each in self._by_fold.get(name, ())]
        for each in sorted(both, key=lambda each: each.layer is self.metadata):
            if not is_unset(each.raw):
                yield each

    def read(
        self,
        names: Sequence[str],
        reader: Callable[[Fields, str], T | None],
        *,
        is_soft: bool = False,
    ) -> T | None:
        """The value under any of these folded names. Two that disagree are `Invalid`; of a soft
        field the top level wins over `metadata`."""
        told: list[tuple[Found, T]] = []
        for each in self.found(names):
            value = reader(each.layer, each.name)
            if value is not None:
                told.append((each, value))
        if not told:
            return None
        first, kept = told[0]
        for other, value in told[1:]:
            if value != kept and not (is_soft and other.layer is not first.layer):
                raise disagreeing(first.param, other.param)
        return kept

    def leftover(self) -> tuple[dict[str, Json], dict[str, Json]]:
        """What nobody has read: of the top level, and of `metadata`."""
        return self.top.rest(), self.metadata.rest()


def disagreeing(one: str, other: str) -> Invalid:
    return Invalid(f"'{one}' and '{other}' say different things; send one of them.", param=other)


def json_text(value: object, param: str) -> object:
    """An object or list sent as its JSON text, the only way some multipart clients have."""
    text = value[:64].lstrip() if isinstance(value, str) else ""
    if not isinstance(value, str) or text[:1] not in ("{", "["):
        return value
    if text[0] == "[" and text[1:].lstrip()[:1] not in ('"', "{", "]"):
        return value
    word = "object" if text[0] == "{" else "list"
    if len(value) > _JSON_CHARS:
        raise Invalid(
            f"'{param}' is the text of a JSON {word} with more than {_JSON_CHARS} characters; "
            "send the body as JSON, or its pictures as files.",
            param=param,
        )
    return json_value(value.encode(), f"The text of '{param}'", param)


def _metadata_of(top: Fields) -> Fields:
    names = [name for name in top.values if folded(name) == "metadata"]
    said = [(name, value) for name in names if (value := top.raw(name)) is not None]
    if len(said) > 1:
        raise disagreeing(said[0][0], said[1][0])
    if not said:
        return Fields({})
    name, value = said[0]
    value = json_text(value, name)
    if not isinstance(value, dict):
        raise Invalid(f"'{name}' must be an object, not {kind_of(value)}.", param=name)
    return Fields(cast("dict[str, object]", value), prefix=f"{name}.")


def _unflattened(fields: Fields) -> Fields:
    """Names of a JSON body that spell a path, `metadata[seconds]` or `metadata.seconds`, as the
    objects and lists they stand for. Gateways behind us read them so."""
    if not any("[" in name or folded(name).startswith("metadata") for name in fields.values):
        return fields
    values: dict[str, object] = {}
    paths: list[tuple[str, list[str], object]] = []
    for name, value in fields.values.items():
        parts = _path_of(name)
        if parts is None:
            values[name] = value
        else:
            paths.append((name, parts, value))
    if not paths:
        return fields
    for name, parts, value in paths:
        _put(values, name, parts, value)
    return Fields(values, prefix=fields.prefix)


def _path_of(name: str) -> list[str] | None:
    match = _BRACKETED.fullmatch(name)
    if match is not None:
        parts = [match[1], *match[2][1:-1].split("][")]
        if len(parts) > _MAX_PARTS:
            raise Invalid(f"{shown(name)} is nested too deep for a name.", param=name[:64])
        return parts
    head, dot, rest = name.partition(".")
    return [head, rest] if dot and rest and folded(head) == "metadata" else None


def _put(values: dict[str, object], name: str, parts: Sequence[str], value: object) -> None:
    here: object = values
    for key, following in zip(parts, [*parts[1:], None], strict=True):
        fresh: object = value if following is None else [] if following == "" else {}
        if isinstance(here, list):
            here.append(fresh)
            here = fresh
        elif isinstance(here, dict):
            members = cast("dict[str, object]", here)
            if key in members and (following is None or not _is_container(members[key])):
                raise Invalid(
                    f"'{name[:64]}' conflicts with another use of '{key}'.", param=name[:64]
                )
            here = members.setdefault(key, fresh)
        else:
            raise Invalid(f"'{name[:64]}' is no name of a field.", param=name[:64])


def _is_container(value: object) -> bool:
    return isinstance(value, dict | list)


def as_mapping(value: object) -> Mapping[str, object] | None:
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else None
