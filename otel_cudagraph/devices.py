"""Which device a capture runs on, asked of the family's own device module.

Properties are read once per device and never while a capture is open.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from otel_cudagraph.facts import Device

if TYPE_CHECKING:
    from otel_cudagraph.families import GraphFamily

_GPU_TYPE = "gpu"


class DeviceTable:
    """Devices seen so far, by family and index."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Device] = {}

    def current(self, family: GraphFamily, *, may_query: bool) -> Device:
        """Return the current device; without `may_query` an unknown one has its index only."""
        module = _device_module(family)
        index = int(module.current_device())
        known = self._known.get((family.name, index))
        if known is not None:
            return known
        if not may_query:
            return Device(index, family.hw_type)
        device = _describe(module, index, family.hw_type)
        self._known[family.name, index] = device
        return device


def _device_module(family: GraphFamily) -> Any:
    module = sys.modules[family.device_module]
    if hasattr(module, "get_device_properties"):
        return module
    # torch.accelerator has no properties of its own: ask the stack beneath it.
    return sys.modules["torch"].get_device_module(module.current_accelerator())


def _describe(module: Any, index: int, hw_type: str) -> Device:
    properties = module.get_device_properties(index)
    uuid = getattr(properties, "uuid", None)  # torch.cuda: from 2.5 on
    prefix = "GPU-" if hw_type == _GPU_TYPE else ""
    return Device(
        index=index,
        hw_type=hw_type,
        hw_id=f"{prefix}{uuid}" if uuid else None,
        hw_name=getattr(properties, "name", None),
    )
