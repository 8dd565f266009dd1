"""Patches a graph family's classes: the one place that no engine can go round.

Each patched method calls the host's exactly once, outside every guard, and passes
its result and its exception on untouched.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_cudagraph._patching import Method, PatchSet
    from otel_cudagraph.families import GraphFamily
    from otel_cudagraph.recorder import CaptureRecorder


class Stage(NamedTuple):
    """What is told to the recorder round one method; all three are guarded.

    `before` returns what `after` and `failed` get, or None where neither is to run.
    """

    before: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
    after: Callable[[Any, Any], None]
    failed: Callable[[Any, Any, BaseException], None]

    def make(self, original: Method) -> Method:
        """Return `original` with this stage round it."""

        def patched(host: Any, *args: Any, **kwargs: Any) -> Any:
            seen = self.before(host, args, kwargs)
            try:
                result = original(host, *args, **kwargs)
            except BaseException as error:
                if seen is not None:
                    self.failed(seen, host, error)
                raise
            if seen is not None:
                self.after(seen, host)
            return result

        return patched


def patch_family(patches: PatchSet, recorder: CaptureRecorder, family: GraphFamily, *, replays: bool) -> None:
    """Patch both classes of an imported family; methods that its version lacks are passed over."""
    module = sys.modules[family.module]
    graph, context = getattr(module, family.graph), getattr(module, family.context)
    makers = {(context, name): stage.make for name, stage in _context_stages(recorder, family).items()}
    makers |= {(graph, name): stage.make for name, stage in _graph_stages(recorder, family).items()}
    if replays:
        makers[graph, "replay"] = lambda original: counting_replay(original, recorder, family)
    for (owner, name), make in makers.items():
        if hasattr(owner, name):
            patches.replace(owner, name, make)


def _context_stages(recorder: CaptureRecorder, family: GraphFamily) -> dict[str, Stage]:
    return {
        "__enter__": Stage(
            before=lambda context, args, kwargs: recorder.context_entering(family, context),
            after=recorder.context_entered,
            failed=lambda capture, context, error: recorder.context_enter_failed(capture, error),
        ),
        "__exit__": Stage(
            before=lambda context, args, kwargs: recorder.context_exiting(context, *args),
            after=lambda capture, context: recorder.context_exited(capture),
            failed=lambda capture, context, error: recorder.context_exited(capture, error),
        ),
    }


def _graph_stages(recorder: CaptureRecorder, family: GraphFamily) -> dict[str, Stage]:
    def end_failed(capture: Any, graph: object, error: BaseException) -> None:
        recorder.ended(capture, error)

    return {
        "capture_begin": Stage(
            before=lambda graph, args, kwargs: recorder.beginning(family, graph, _pool(args, kwargs)),
            after=recorder.begun,
            failed=lambda capture, graph, error: recorder.begin_failed(capture, error),
        ),
        "capture_end": Stage(
            before=lambda graph, args, kwargs: recorder.ending(graph),
            after=lambda capture, graph: recorder.ended(capture),
            failed=end_failed,
        ),
        # torch >= 2.14 splits the end in two, and a caller may use the halves.
        "capture_end_pre": Stage(
            before=lambda graph, args, kwargs: recorder.ending(graph),
            after=lambda capture, graph: recorder.split_ended(capture),
            failed=end_failed,
        ),
        "capture_end_post": Stage(
            before=lambda graph, args, kwargs: recorder.finalizing(graph),
            after=lambda capture, graph: recorder.ended(capture),
            failed=end_failed,
        ),
        "instantiate": Stage(
            before=lambda graph, args, kwargs: recorder.instantiating(graph),
            after=lambda timing, graph: recorder.instantiated(timing),
            failed=lambda timing, graph, error: None,
        ),
        "reset": Stage(
            before=lambda graph, args, kwargs: recorder.active or None,
            after=lambda active, graph: recorder.was_reset(graph),
            failed=lambda active, graph, error: None,
        ),
    }


def _pool(args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """Return the `pool` argument of ``capture_begin``: its first in every family that has one."""
    return args[0] if args else kwargs.get("pool")


def counting_replay(original: Method, recorder: CaptureRecorder, family: GraphFamily) -> Method:
    """Return a `replay` that counts in the graph: some tens of ns of a call that takes 3 µs or more.

    torch's own Python shim does nothing but call the C method (up to torch 2.12);
    where it does just that, the C method is called in its place, which wins the cost
    back. (A class that stands between the two in somebody's method resolution order
    is passed over, then.)
    """
    launch = _beneath_bare_shim(original)
    if launch is None:
        return _counting(original, recorder, family)
    count: Callable[[Any], Any] = next

    # Every bytecode costs here, since the launch before has evicted the interpreter from
    # the caches: one attribute, nothing kept across the launch, and no further parameter,
    # which would keep CPython from calling this without building arguments. So the count
    # comes first and is taken back where the launch raises.
    def replay(self: Any) -> Any:
        try:
            count(self._otel_cudagraph_replays)
        except (AttributeError, TypeError):  # a graph that we did not see captured
            pass
        else:
            try:
                return launch(self)
            except BaseException:
                recorder.replay_failed(self)
                raise
        result = launch(self)
        recorder.replayed_unseen(family, self)
        return result

    # It may stay inside somebody else's patch, where another of ours counts later.
    def deactivate() -> None:
        nonlocal count
        count = _count_nothing

    recorder.when_deactivated(deactivate)
    return replay


def _count_nothing(_: object) -> None:
    """Stand in for `next` once nobody records."""


def _counting(original: Method, recorder: CaptureRecorder, family: GraphFamily) -> Method:
    """Return a counting `replay` round any other method: torch >= 2.13 does more, others patch too."""
    count: Callable[[Any], Any] = next

    def replay(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        try:
            count(self._otel_cudagraph_replays)
        except (AttributeError, TypeError):
            recorder.replayed_unseen(family, self)
        return result

    def deactivate() -> None:
        nonlocal count
        count = _count_nothing

    recorder.when_deactivated(deactivate)
    return replay


def _beneath_bare_shim(original: Method) -> Method | None:
    """Return the C method beneath a ``def replay(self): super().replay()``, else None."""
    code = getattr(original, "__code__", None)
    if code is None or code.co_names != ("super", "replay") or code.co_freevars != ("__class__",):
        return None
    beneath = getattr(inspect.getclosurevars(original).nonlocals["__class__"].__base__, "replay", None)
    return beneath if callable(beneath) else None
