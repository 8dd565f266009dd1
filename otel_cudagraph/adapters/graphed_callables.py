"""``torch.cuda.make_graphed_callables``: a trigger per call, a graph per callable and direction."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from otel_cudagraph.adapters.hooks import Hook, Place, described_by, trigger
from otel_cudagraph.attribution import Caller
from otel_cudagraph.facts import Descriptor
from otel_cudagraph.frames import local
from otel_cudagraph.semconv import ENGINE_TORCH, Phase, Purpose

if TYPE_CHECKING:
    from types import FrameType

_MODULE, _FUNCTION = "torch.cuda.graphs", "make_graphed_callables"
_TRIGGER = Descriptor(ENGINE_TORCH, Purpose.SERVING, Phase.STARTUP)


def _given(callables: Any, *_: Any, **__: Any) -> Descriptor | None:
    return None if callables == () else _TRIGGER


def _describe(frame: FrameType, graph: object) -> Descriptor:
    callables = local(frame, "callables")
    for direction, name in (("forward", "fwd_graphs"), ("backward", "bwd_graphs")):
        graphs = local(frame, name) or ()
        for index, each in enumerate(graphs):
            if each is graph:
                return Descriptor(key=f"{_name(callables[index])} {direction} callable={index}")
    return Descriptor()


def _name(called: Any) -> str:
    return getattr(called, "__qualname__", None) if inspect.isroutine(called) else type(called).__qualname__  # type: ignore[return-value]


HOOKS = (
    Hook(
        Place(_MODULE, _FUNCTION, parameters=("callables",), variables=("fwd_graphs", "bwd_graphs")),
        described_by(trigger, _given),
        holders=("torch.cuda",),
    ),
)
CALLERS = (Caller(_MODULE, _FUNCTION, Descriptor(engine=ENGINE_TORCH), _describe),)
READS: tuple[Place, ...] = ()
