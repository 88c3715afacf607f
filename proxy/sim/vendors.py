"""The simulated vendors. A new one is a module with a `VENDOR`, and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.sim.jimeng import VENDOR as JIMENG
from proxy.sim.kling import VENDOR as KLING
from proxy.sim.openai import VENDOR as OPENAI
from proxy.sim.service import Vendor

VENDORS: Mapping[str, Vendor] = {vendor.name: vendor for vendor in (OPENAI, KLING, JIMENG)}

# Every service that listens: the vendors, their file host, and the control endpoint.
SERVICES = (*VENDORS, "cdn", "control")
