"""Who captures: the calling code's name, and what that code is known to capture for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from otel_cudagraph.facts import Descriptor
from otel_cudagraph.semconv import ENGINE_TORCH_COMPILE, Purpose

if TYPE_CHECKING:
    from types import FrameType

_TRANSPARENT = frozenset({"otel_cudagraph", "contextlib"})
"""Top-level packages that only pass a call on."""

_KNOWN: tuple[tuple[str, str, Descriptor], ...] = (
    # CUDAGraphTreeManager captures an empty graph to keep its pool alive
    # (torch/_inductor/cudagraph_trees.py); no other __init__ there captures by itself.
    (
        "torch._inductor.cudagraph_trees",
        "__init__",
        Descriptor(engine=ENGINE_TORCH_COMPILE, purpose=Purpose.INTERNAL),
    ),
    ("torch._inductor.runtime.benchmarking", "", Descriptor(ENGINE_TORCH_COMPILE, Purpose.BENCHMARK)),
    ("torch._inductor.", "", Descriptor(engine=ENGINE_TORCH_COMPILE)),
    # Inductor captures conditional nodes into a graph that it throws away.
    ("torch._higher_order_ops.cudagraph_conditional_nodes", "", Descriptor(purpose=Purpose.INTERNAL)),
    ("torch._dynamo.backends.cudagraphs", "", Descriptor(engine=ENGINE_TORCH_COMPILE)),
    ("triton.testing", "", Descriptor(purpose=Purpose.BENCHMARK)),
)
"""Module prefix, function (empty: any), and what captures from there are. First match wins."""

_UNKNOWN = Descriptor()


def calling_frame() -> FrameType | None:
    """Return the frame of the nearest caller outside this package."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  the documented way to one's caller
    while frame is not None and _module(frame).partition(".")[0] in _TRANSPARENT:
        frame = frame.f_back
    return frame


def function_name(frame: FrameType | None) -> str:
    """Return ``code.function.name`` of a frame: fully qualified from Python 3.11 on."""
    if frame is None:
        return "<unknown>"
    code = frame.f_code
    return f"{_module(frame)}.{getattr(code, 'co_qualname', code.co_name)}"


def known_caller(frame: FrameType | None) -> Descriptor:
    """Return what captures made by this frame are known to be."""
    if frame is None:
        return _UNKNOWN
    module, function = _module(frame), frame.f_code.co_name
    for prefix, name, descriptor in _KNOWN:
        if module.startswith(prefix) and name in ("", function):
            return descriptor
    return _UNKNOWN


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
