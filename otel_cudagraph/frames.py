"""Looking at the code that captures: its name, the calls around it, their arguments.

Used while a capture is prepared, never on a replay. Frames are not kept.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import FrameType

_TRANSPARENT = frozenset({"otel_cudagraph", "contextlib", "torch_memory_saver"})
"""Top-level packages that only pass a call on."""


def calling_frame() -> FrameType | None:
    """Return the frame of the nearest caller outside this package."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  the documented way to one's caller
    while frame is not None and module_name(frame).partition(".")[0] in _TRANSPARENT:
        frame = frame.f_back
    return frame


def module_name(frame: FrameType) -> str:
    """Return the dotted name of the module that a frame's code belongs to."""
    return str(frame.f_globals.get("__name__", ""))


def function_name(frame: FrameType | None) -> str:
    """Return ``code.function.name`` of a frame: fully qualified from Python 3.11 on."""
    if frame is None:
        return "<unknown>"
    code = frame.f_code
    return f"{module_name(frame)}.{getattr(code, 'co_qualname', code.co_name)}"


def enclosing(frame: FrameType | None, package: str, functions: Collection[str]) -> dict[str, FrameType]:
    """Return the calls round `frame`, itself included, that run one of `functions` of `package`.

    By function name, the innermost of each.
    """
    found: dict[str, FrameType] = {}
    while frame is not None:
        name = frame.f_code.co_name
        if name in functions and name not in found and module_name(frame).startswith(package):
            found[name] = frame
        frame = frame.f_back
    return found


def local(frame: FrameType | None, name: str) -> Any:
    """Return an argument or local variable of a call under way, None where there is none."""
    if frame is None:
        return None
    variables = frame.f_locals
    value = variables.get(name)
    if (
        type(variables) is dict
        and frame.f_code.co_flags & _OPTIMIZED
        and sys.getrefcount(variables) == _REFERENCES
    ):
        # Up to Python 3.12 this is a copy that the frame keeps: it would keep the host's tensors alive.
        variables.clear()
    return value


_OPTIMIZED = 1
"""``CO_OPTIMIZED`` (`inspect`): a function's frame, whose variables are not this dictionary."""
_REFERENCES = 3
"""To such a copy: the frame's, ours, and the count's; one more where the host has called ``locals()``."""
