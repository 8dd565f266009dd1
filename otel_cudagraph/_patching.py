"""Attribute replacements on classes that can be undone exactly.

Methods are replaced on the class that defines them, never by rebinding a
module's name: other modules hold their own references to the class.
"""

from __future__ import annotations

import functools
import inspect
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Method = Callable[..., Any]

_ABSENT = object()
_logger = logging.getLogger(__name__)


class PatchSet:
    """Replacements made so far, undone newest first by `restore`."""

    def __init__(self) -> None:
        self._applied: list[tuple[type, str, object, object]] = []

    def replace(self, owner: type, name: str, make: Callable[[Method], Method]) -> None:
        """Replace `owner.name` by `make(original)`.

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

    def restore(self) -> None:
        """Undo every replacement; leave and name those that somebody has wrapped since."""
        while self._applied:
            owner, name, previous, replacement = self._applied.pop()
            if vars(owner).get(name) is not replacement:
                _logger.warning(
                    "%s.%s.%s was patched by somebody else after us: left as it is, ours is inert inside it",
                    owner.__module__,
                    owner.__qualname__,
                    name,
                )
            elif previous is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, previous)
