"""The providers there are, by the name `[[upstreams]] provider` takes."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.providers.base import Provider
from proxy.providers.jimeng import Jimeng
from proxy.providers.kling import Kling
from proxy.providers.openai import OpenAI

PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider for provider in (OpenAI(), Kling(), Jimeng())
}
