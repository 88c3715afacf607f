"""How clients speak: one module per dialect, bytes in and out of the house's own values."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from proxy.dialects.base import Dialect
from proxy.dialects.generic import GenericDialect
from proxy.dialects.jimeng import JimengDialect
from proxy.dialects.kling import KlingDialect
from proxy.dialects.openai import OpenAIDialect
from proxy.model import DialectName

DIALECTS: Mapping[DialectName, Dialect] = MappingProxyType(
    {
        "openai": OpenAIDialect(),
        "generic": GenericDialect(),
        "kling": KlingDialect(),
        "jimeng": JimengDialect(),
    }
)
