"""The table of what is patched: a graph class, the context that captures into it, its devices.

`torch.cuda` is the first row. Every accelerator stack of torch has the same
shape, so recording code never asks which family it serves.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GraphFamily:
    """A graph class whose instances capture and replay, and where it lives."""

    name: str
    module: str
    """Module that defines both classes; patched when it is imported."""
    graph: str
    """Class with ``capture_begin``, ``capture_end``, ``replay`` and ``reset``."""
    context: str
    """Class whose ``with`` block captures; may be the graph class itself."""
    device_module: str
    """Module with ``current_device()`` and ``get_device_properties(index)``."""
    hw_type: str = "gpu"
    simulated: bool = False
    """The graphs are a stand-in's and no device executes them."""


_TABLE = [
    GraphFamily("cuda", "torch.cuda.graphs", "CUDAGraph", "graph", "torch.cuda"),
    GraphFamily("xpu", "torch.xpu.graphs", "XPUGraph", "graph", "torch.xpu"),
    # torch.accelerator.Graph wraps a C++ class of its own: it passes no method of CUDAGraph.
    GraphFamily("accelerator", "torch.accelerator.graphs", "Graph", "Graph", "torch.accelerator"),
    GraphFamily("npu", "torch_npu.npu.graphs", "NPUGraph", "graph", "torch.npu"),
]


def families() -> tuple[GraphFamily, ...]:
    """Return the families that are patched wherever their module is imported."""
    return tuple(_TABLE)


def add_family(family: GraphFamily) -> bool:
    """Add a row to the table; False where it is there already.

    Raises:
        ValueError: another family of that name is in the table.
    """
    if family in _TABLE:
        return False
    if any(row.name == family.name for row in _TABLE):
        raise ValueError(f"another graph family is registered as {family.name!r}: choose another name")
    _TABLE.append(family)
    return True


def remove_family(family: GraphFamily) -> None:
    """Take a row out of the table."""
    _TABLE.remove(family)
