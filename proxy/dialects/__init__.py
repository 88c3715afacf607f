"""How clients speak: one module per dialect, bytes in and out of the house's own values."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from proxy.dialects.base import Dialect
from proxy.dialects.generic import Generic
from proxy.dialects.jimeng import Jimeng
from proxy.dialects.kling import Kling
from proxy.dialects.openai import OpenAI
from proxy.model import DialectName

DIALECTS: Mapping[DialectName, Dialect] = MappingProxyType(
    {"openai": OpenAI(), "generic": Generic(), "kling": Kling(), "jimeng": Jimeng()}
)
