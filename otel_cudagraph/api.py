"""What engines, and people with a runner of their own, say in their code."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import threading
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from otel_cudagraph import scope
from otel_cudagraph._guard import guarded
from otel_cudagraph.current import call_in_trigger, close_trigger, open_trigger
from otel_cudagraph.facts import Descriptor, encodable
from otel_cudagraph.frames import calling_frame, function_name
from otel_cudagraph.semconv import ENGINE_TORCH, Phase, Purpose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from typing_extensions import Self

    from otel_cudagraph.current import OpenedTrigger

E = TypeVar("E", bound=Enum)
P = ParamSpec("P")
T = TypeVar("T")


_RUN_LATER = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)


class _Entered(threading.local):
    """The triggers that one `capture_trigger` object has opened on this thread."""

    def __init__(self) -> None:
        self.triggers: list[OpenedTrigger | None] = []


class capture_trigger:  # noqa: N801  used like a function, as contextlib's own context managers are
    """Marks one top-level attempt of a model runner to capture its graphs.

    Usable as context manager and as decorator::

        with capture_trigger(engine="my-engine", runtime_mode="FULL"):
            capture_all()


        @capture_trigger(engine="my-engine", when=lambda self: self.sizes)
        def capture_model(self): ...

    Enter it once it is decided that there is something to capture: entering counts
    the trigger (``cuda.graph.capture_triggers``). Captures made inside it, also in
    threads that it starts, become children of its span. Inside another trigger it
    does nothing, since a part of an attempt is no attempt of its own; without
    `CudaGraphInstrumentor().instrument()` it does nothing either.

    Args:
        engine: ``cuda.graph.engine``.
        runtime_mode: The configured mode, such as ``FULL_AND_PIECEWISE``.
        purpose: ``serving``, ``profiling``, ``benchmark`` or ``internal``.
        phase: ``startup``, ``runtime`` or ``recapture``.
        simulated: The graphs are a stand-in's (``cuda.graph.simulated``), as of the
            runner on a CPU.
        when: Decorator only: called with the function's arguments; where it
            returns something false there is nothing to capture, and no trigger.

    Raises:
        ValueError: `purpose` or `phase` is none of the above.
    """

    def __init__(
        self,
        *,
        engine: str = ENGINE_TORCH,
        runtime_mode: str | None = None,
        purpose: str = Purpose.SERVING.value,
        phase: str = Phase.STARTUP.value,
        simulated: bool = False,
        when: Callable[..., object] | None = None,
    ) -> None:
        self._descriptor = Descriptor(
            engine=_text(engine),
            purpose=_member(Purpose, "purpose", purpose),
            phase=_member(Phase, "phase", phase),
            runtime_mode=_text(runtime_mode),
        )
        self._simulated = simulated
        self._when = when
        self._entered = _Entered()

    def __enter__(self) -> Self:
        self._entered.triggers.append(self._open(function_name(calling_frame())))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        close_trigger(self._entered.triggers.pop(), error)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Make every call of `function` a trigger.

        Raises:
            TypeError: `function` is a coroutine or generator function, whose call captures nothing yet.
        """
        named = inspect.unwrap(getattr(function, "func", function))  # functools.partial has no name
        name = f"{named.__module__}.{getattr(named, '__qualname__', type(named).__qualname__)}"
        if any(runs_later(function) for runs_later in _RUN_LATER):
            raise TypeError(
                f"capture_trigger cannot decorate {name}: calling a coroutine or generator function runs "
                "none of it; use `with capture_trigger(...)` round the captures"
            )

        @functools.wraps(function)
        def triggering(*args: P.args, **kwargs: P.kwargs) -> T:
            if self._when is not None and not self._when(*args, **kwargs):
                return function(*args, **kwargs)
            return call_in_trigger(self._open(name), function, args, kwargs)  # type: ignore[no-any-return]

        return triggering

    def _open(self, function: str) -> OpenedTrigger | None:
        return open_trigger(self._descriptor, function, simulated=self._simulated)


@contextmanager
def batch_descriptor(  # noqa: PLR0913  each is a field of its own
    key: str | None = None,
    *,
    runtime_mode: str | None = None,
    batch_size: int | None = None,
    num_tokens: int | None = None,
    engine: str | None = None,
    purpose: str | None = None,
    phase: str | None = None,
) -> Iterator[None]:
    """Say what the graphs are that the enclosed code captures; what is left out stays as it was.

    It holds for the calling thread (or `contextvars` context), not for threads started within.
    Values of unexpected types do not raise: texts are made by ``str()`` (an enum's
    member by its name), numbers that are no integers are left out.

    Args:
        key: ``cuda.graph.key``, the engine's own descriptor, readable.
        runtime_mode: ``FULL`` or ``PIECEWISE``.
        batch_size: Sequences in the batch that the graph serves.
        num_tokens: Tokens in that batch.
        engine: ``cuda.graph.engine``, where it is not the trigger's.
        purpose: ``serving``, ``profiling``, ``benchmark`` or ``internal``.
        phase: ``startup``, ``runtime`` or ``recapture``.

    Raises:
        ValueError: `purpose` or `phase` is none of the above.
    """
    descriptor = Descriptor(
        engine=_text(engine),
        purpose=None if purpose is None else _member(Purpose, "purpose", purpose),
        phase=None if phase is None else _member(Phase, "phase", phase),
        runtime_mode=_text(runtime_mode),
        key=_text(key),
        batch_size=_integer(batch_size),
        num_tokens=_integer(num_tokens),
    )
    token = scope.batch_descriptor.set(descriptor.over(scope.batch_descriptor.get()))
    try:
        yield
    finally:
        # A generator may be closed in another context than it was started in.
        with contextlib.suppress(ValueError):
            scope.batch_descriptor.reset(token)


@guarded
def _text(value: object) -> str | None:
    if value is None:
        return None
    return encodable(str(value.name if isinstance(value, Enum) else value))


def _integer(value: object) -> int | None:
    try:
        return operator.index(value)  # type: ignore[arg-type]  # whatever the engine has
    except TypeError:
        return None


def _member(enum: type[E], name: str, value: str) -> E:
    try:
        return enum(value)
    except ValueError:
        accepted = ", ".join(member.value for member in enum)
        raise ValueError(f"{name}={value!r} is not known; use one of: {accepted}") from None
