"""How clients speak: one module per dialect, bytes in and out of the house's own values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from proxy.dialects.base import Dialect
from proxy.dialects.generic import GenericDialect
from proxy.dialects.jimeng import JimengDialect
from proxy.dialects.kling import KlingDialect
from proxy.dialects.openai import OpenAIDialect
from proxy.dialects.registry import registry_of
from proxy.model import DialectName

DIALECTS: Mapping[DialectName, Dialect] = registry_of(
    OpenAIDialect(), GenericDialect(), KlingDialect(), JimengDialect()
)

if TYPE_CHECKING:
    RegisteredDialect: TypeAlias = DialectName
else:
    # For tables and bodies that pydantic reads: one of the registry's names, said in errors and
    # in schemas as a closed list.
    RegisteredDialect = Literal[tuple(DIALECTS)]
