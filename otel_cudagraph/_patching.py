"""Attribute replacements on classes and modules that can be undone exactly.

Methods are replaced on the class that defines them, never by rebinding the class's
name in a module: other modules hold their own references to the class.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Method = Callable[..., Any]

_ABSENT = object()
_logger = logging.getLogger(__name__)


class PatchSet:
    """Replacements made so far, undone newest first by `restore`."""

    def __init__(self) -> None:
        self._applied: list[tuple[object, str, object, object]] = []
        self._holders: list[tuple[str, str, object, object]] = []

    def replace(
        self, owner: object, name: str, make: Callable[[Method], Method], holders: Iterable[str] = ()
    ) -> None:
        """Replace `owner.name` by `make(original)`.

        Args:
            owner: A class or module.
            name: The attribute.
            make: Makes the replacement.
            holders: Modules that hold the function under the same name, as a
                ``from … import`` leaves it; those imported later get theirs from `owner`.

        Raises:
            AttributeError: `owner` has no such method.
        """
        previous = vars(owner).get(name, _ABSENT)  # absent: the method is inherited
        original = inspect.getattr_static(owner, name)
        replacement = functools.wraps(original)(make(original))
        # torch.compile must not trace into a patch: this is the mark that
        # torch._dynamo.disable leaves on a function, without importing torch.
        replacement._torchdynamo_disable = True  # type: ignore[attr-defined]  # noqa: SLF001
        setattr(owner, name, replacement)
        self._applied.append((owner, name, previous, replacement))
        for holder in holders:
            _exchange(holder, name, original, replacement)
            self._holders.append((holder, name, original, replacement))

    def restore(self) -> None:
        """Undo every replacement; leave and name those that somebody has wrapped since."""
        while self._holders:
            holder, name, original, replacement = self._holders.pop()
            _exchange(holder, name, replacement, original)
        while self._applied:
            owner, name, previous, replacement = self._applied.pop()
            if vars(owner).get(name) is not replacement:
                _logger.warning(
                    "%s.%s was patched by somebody else after us: left as it is, ours is inert inside it",
                    _dotted_name(owner),
                    name,
                )
            elif previous is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, previous)


def _exchange(module: str, name: str, old: object, new: object) -> None:
    holder = sys.modules.get(module)
    if holder is not None and vars(holder).get(name) is old:
        setattr(holder, name, new)


def _dotted_name(owner: object) -> str:
    if isinstance(owner, type):
        return f"{owner.__module__}.{owner.__qualname__}"
    return str(getattr(owner, "__name__", owner))
