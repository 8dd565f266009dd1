"""What an adapter is made of: the engine's functions that it hooks, and those that it only reads."""

from __future__ import annotations

import functools
import inspect
import operator
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from packaging.version import InvalidVersion, Version

from otel_cudagraph._guard import guarded
from otel_cudagraph.clock import Anchor
from otel_cudagraph.current import (
    LateTrigger,
    call_and_close,
    call_in_trigger,
    expect_trigger,
    late_trigger,
    open_trigger,
)
from otel_cudagraph.scope import batch_descriptor

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_cudagraph._patching import Method, PatchSet
    from otel_cudagraph.current import OpenedTrigger
    from otel_cudagraph.facts import Descriptor

    Describe = Callable[..., Descriptor | None]
    """Called with the arguments of the hooked call; None: this call is no trigger."""


@dataclass(frozen=True)
class Place:
    """Something of an engine that an adapter relies on.

    The contract tests look for it in the engine's published source; an adapter
    that hooks it looks for it in the engine that runs.
    """

    module: str
    name: str
    """Qualified name in the module: a function, a class, ``Class.method``, ``Class.attribute``."""
    parameters: tuple[str, ...] = ()
    """Parameters, of a function, that are read by name."""
    variables: tuple[str, ...] = ()
    """Local variables, of a function, that are read while it runs."""
    since: str = "0"
    """The first version that has it."""
    before: str | None = None
    """The first version that does not have it any more."""

    def belongs_to(self, version: str | None) -> bool:
        """Return whether the engine has this in `version`; an unknown one is the newest."""
        try:
            # A pre-release of a version has what the version has.
            base = Version(Version(version or "").base_version)
        except InvalidVersion:
            return self.before is None
        return base >= Version(self.since) and (self.before is None or base < Version(self.before))

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Hook:
    """A function of an engine that is replaced by one that calls it."""

    place: Place
    wrap: Callable[[Method], Method]
    holders: tuple[str, ...] = ()
    """Other modules that hold the function under the same name, as a ``from … import`` leaves it."""

    @property
    def is_trigger(self) -> bool:
        """Whether the function's calls are triggers, by themselves or once there is a decision."""
        return getattr(self.wrap, "func", None) in (trigger, undecided_trigger)

    def install(self, patches: PatchSet) -> str | None:
        """Replace the function, of a module that is imported; return what the engine lacks, if anything."""
        path, _, name = self.place.name.rpartition(".")
        owner = sys.modules[self.place.module]
        try:
            holder = operator.attrgetter(path)(owner) if path else owner
            parameters = inspect.signature(getattr(holder, name)).parameters
        except AttributeError:
            return str(self.place)
        takes_any = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
        missing = [each for each in self.place.parameters if each not in parameters and not takes_any]
        if missing:
            return f"parameter {', '.join(missing)} of {self.place}"
        patches.replace(holder, name, self.wrap, self.holders)
        return None


def trigger(original: Method, describe: Describe) -> Method:
    """Make each call of `original` a trigger, where `describe` says what it is."""
    function = qualified_name(original)

    @guarded
    def opened(*args: Any, **kwargs: Any) -> OpenedTrigger | None:
        descriptor = describe(*args, **kwargs)
        return None if descriptor is None else open_trigger(descriptor, function)

    def triggering(*args: Any, **kwargs: Any) -> Any:
        return call_in_trigger(opened(*args, **kwargs), original, args, kwargs)

    return triggering


def undecided_trigger(original: Method, describe: Describe) -> Method:
    """Make each call of `original` a trigger once a function wrapped by `decision` is called in it."""
    function = qualified_name(original)

    @guarded
    def pending(*args: Any, **kwargs: Any) -> LateTrigger | None:
        descriptor = describe(*args, **kwargs)
        if descriptor is None:
            return None
        expect_trigger()
        return LateTrigger(descriptor, function, Anchor(), otel_context.get_current())

    def perhaps_triggering(*args: Any, **kwargs: Any) -> Any:
        late = pending(*args, **kwargs)
        if late is None or late_trigger.get() is not None:
            return original(*args, **kwargs)
        token = late_trigger.set(late)

        def close(error: BaseException | None) -> None:
            late_trigger.reset(token)
            late.close(error)

        return call_and_close(close, original, args, kwargs)

    return perhaps_triggering


def within(original: Method, descriptor: Descriptor) -> Method:
    """Let `descriptor` hold for every capture that a call of `original` makes, whoever makes it."""

    def describing(*args: Any, **kwargs: Any) -> Any:
        token = batch_descriptor.set(descriptor.over(batch_descriptor.get()))
        try:
            return original(*args, **kwargs)
        finally:
            batch_descriptor.reset(token)

    return describing


def decision(original: Method) -> Method:
    """Open the `undecided_trigger` under way when `original` is called: there is something to capture."""

    def decided(*args: Any, **kwargs: Any) -> Any:
        late = late_trigger.get()
        if late is not None:
            late.open()
        return original(*args, **kwargs)

    return decided


def qualified_name(function: Any) -> str:
    """Return a function's name as ``code.function.name`` has it."""
    named = inspect.unwrap(function)
    return f"{named.__module__}.{named.__qualname__}"


def described_by(wrap: Callable[..., Method], describe: Describe) -> Callable[[Method], Method]:
    """Return `wrap` with its `describe` given."""
    return functools.partial(wrap, describe=describe)
