"""``torch.compile``: CUDA graph trees (``torch/_inductor/cudagraph_trees.py``), and what it skips."""

from __future__ import annotations

import itertools
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from otel_cudagraph._guard import guarded
from otel_cudagraph.adapters.hooks import Hook, Place
from otel_cudagraph.attribution import Caller
from otel_cudagraph.current import count_skip
from otel_cudagraph.facts import Descriptor
from otel_cudagraph.frames import enclosing, local
from otel_cudagraph.semconv import ENGINE_TORCH_COMPILE, SkipReason

if TYPE_CHECKING:
    from types import FrameType

    from otel_cudagraph._patching import Method

_TREES, _UTILS = "torch._inductor.cudagraph_trees", "torch._inductor.cudagraph_utils"
_SKIP = "log_cudagraph_skip_and_bump_counter"
_RECORD, _CACHE = "record_function", "deferred_cudagraphify"


def _describe(frame: FrameType, _: object) -> Descriptor:
    """Name a recording by its function, direction and the sizes (symints) that it is for.

    A function that is recorded again, on another path through the tree or because an
    input moved, has the same key: a recapture.
    """
    around = enclosing(frame, "torch._inductor.", {_RECORD, _CACHE})
    recording = around.get(_RECORD)
    function = local(recording, "function_id")
    if function is None:
        return Descriptor()
    manager = local(recording, "self")
    mode = manager.id_to_mode[function].name.lower()
    symints = local(around.get(_CACHE), "int_key")
    key = f"function={function.id} {mode}"
    return Descriptor(
        key=key if symints is None else f"{key} symints={symints}",
        owner=_managers.setdefault(manager, next(_numbers)),
    )


_managers: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""A number for each tree of graphs: each numbers its functions from 0."""
_numbers = itertools.count(1)

_REASONS = (
    # First what may have user code after it: here the place of an input that moved.
    ("re-recording", SkipReason.RECAPTURE_LIMIT),
    ("cpu device", SkipReason.CPU_DEVICE),
    ("multiple device", SkipReason.MULTIPLE_DEVICES),
    ("symbolic shapes", SkipReason.DYNAMIC_SHAPES),
    ("dynamic shape", SkipReason.DYNAMIC_SHAPES),
    ("incompatible op", SkipReason.INCOMPATIBLE_OP),
    ("control flow operator", SkipReason.INCOMPATIBLE_OP),
    ("boolean indexing", SkipReason.INCOMPATIBLE_OP),
    ("unsafe", SkipReason.INCOMPATIBLE_OP),
    # Last: the operator or node that one of the others names may be called so.
    ("mutat", SkipReason.MUTATED_INPUTS),
)
"""What a message contains, in lower case, and its class; first match wins."""


@guarded
def _classify(message: object, *_: object, **__: object) -> str:
    # What follows is the place in the user's code: it must not decide the class.
    reason = str(message).partition("Found from")[0].lower()
    return next((known.value for word, known in _REASONS if word in reason), SkipReason.OTHER.value)


_counting: ContextVar[bool] = ContextVar("otel_cudagraph_counting_skip", default=False)
"""Whether a skip is being counted: a hook left inside somebody else's patch must not count it again."""


def _count_skip(original: Method) -> Method:
    def counting(*args: Any, **kwargs: Any) -> Any:
        if _counting.get():
            return original(*args, **kwargs)
        token = _counting.set(True)
        try:
            # First: with triton.cudagraph_or_error the original raises.
            count_skip(ENGINE_TORCH_COMPILE, _classify(*args, *kwargs.values()) or SkipReason.OTHER.value)
            return original(*args, **kwargs)
        finally:
            _counting.reset(token)

    return counting


HOOKS = (
    Hook(
        Place(_UTILS, _SKIP, parameters=("msg",)),
        _count_skip,
        holders=(
            _TREES,
            "torch._inductor.compile_fx",
            "torch._inductor.output_code",
            "torch._dynamo.backends.cudagraphs",
        ),
    ),
)
CALLERS = (Caller(_TREES, "_record", Descriptor(engine=ENGINE_TORCH_COMPILE), _describe),)
READS = (
    Place(_TREES, "CUDAGraphNode._record"),
    Place(_TREES, f"CUDAGraphTreeManager.{_RECORD}", parameters=("self", "function_id")),
    Place(_TREES, "CUDAGraphTreeManager.id_to_mode"),
    Place(_TREES, "FunctionID.id"),
    Place(_TREES, f"cudagraphify_impl.{_CACHE}", variables=("int_key",)),
    Place("torch._inductor.runtime.benchmarking", "benchmarker", since="2.5"),
)
