"""What every adapter is made of, with an engine and an adapter of our own."""

from __future__ import annotations

import contextvars
import gc
import importlib
import inspect
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from opentelemetry import trace

from otel_cudagraph._patching import PatchSet
from otel_cudagraph.adapters import AdapterRow
from otel_cudagraph.adapters.hooks import Hook, Place, decision, described_by, trigger, undecided_trigger
from otel_cudagraph.attribution import Caller
from otel_cudagraph.facts import Descriptor
from otel_cudagraph.frames import local
from otel_cudagraph.imports import ImportWatch
from otel_cudagraph.semconv import Phase, Purpose
from tests.engine_fakes import install_fake
from tests.pipeline import Pipeline

RUNNER = "toyengine.runner"
ADAPTER = "otel_cudagraph.adapters.toyengine"
TOY = Descriptor("toy", Purpose.SERVING, Phase.STARTUP)
SOURCE = """
def capture_all(work, *args, **kwargs):
    return work(*args, **kwargs)


def maybe_capture(work, *args, **kwargs):
    return work(*args, **kwargs)


def decide(work=None, *args, **kwargs):
    return None if work is None else work(*args, **kwargs)


def plan(work):
    return work()
"""


def describe(*_: object, **__: object) -> Descriptor:
    return TOY


def adapter(**parts: Any) -> ModuleType:
    module = ModuleType(ADAPTER)
    module.HOOKS = (
        Hook(Place(RUNNER, "capture_all"), described_by(trigger, describe)),
        Hook(Place(RUNNER, "maybe_capture"), described_by(undecided_trigger, describe)),
        Hook(Place(RUNNER, "decide"), decision),
    )
    vars(module).update(parts)
    return module


@pytest.fixture
def install(monkeypatch, tmp_path, stand_in) -> Iterator[Callable[..., None]]:
    """Return a function that makes the engine importable and puts an adapter of it into the table."""
    package = tmp_path / "engine" / "toyengine"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "runner.py").write_text(SOURCE)
    fake = install_fake("toyengine", "1.2", monkeypatch, tmp_path, tmp_path / "engine")
    next(fake)
    row = AdapterRow("toyengine", "toy", "toyengine", "toyengine")

    def installed(module: ModuleType | None = None) -> None:
        monkeypatch.setitem(sys.modules, ADAPTER, module)
        monkeypatch.setattr("otel_cudagraph.adapters.loading.ADAPTERS", (row,))

    yield installed
    next(fake, None)


@pytest.fixture
def engine(install, pipeline) -> Any:
    """The engine, hooked: what `pipeline` instrumented before, it is imported after."""
    pipeline.instrumentor.uninstrument()
    install(adapter())
    pipeline.instrumentor.instrument(
        tracer_provider=pipeline.tracer_provider, meter_provider=pipeline.meter_provider
    )
    return importlib.import_module(RUNNER)


class TestLoading:
    @pytest.mark.parametrize("engine_first", [False, True])
    def test_whichever_is_first_the_engine_is_hooked_and_let_go(self, install, engine_first: bool) -> None:
        install(adapter())
        original = importlib.import_module(RUNNER).capture_all if engine_first else None
        with Pipeline() as pipeline:
            module = importlib.import_module(RUNNER)
            module.capture_all(int)
            assert len(pipeline.triggers()) == 1
            assert module.capture_all is not original
            original = original or inspect.unwrap(module.capture_all)

        assert module.capture_all is original
        assert module.maybe_capture.__module__ == module.decide.__module__ == RUNNER
        assert not hasattr(module.decide, "__wrapped__")

    def test_hooked_again_by_the_next_instrument(self, install) -> None:
        install(adapter())
        for _ in range(2):
            with Pipeline() as pipeline:
                importlib.import_module(RUNNER).capture_all(int)
                assert len(pipeline.triggers()) == 1

    def test_an_engine_imported_after_uninstrument_stays_as_it_is(self, install) -> None:
        install(adapter())
        with Pipeline():
            pass

        assert not hasattr(importlib.import_module(RUNNER).capture_all, "__wrapped__")

    @pytest.mark.parametrize("engine_first", [False, True])
    def test_an_adapter_that_cannot_be_imported(
        self, install, stand_in, monkeypatch, caplog, engine_first: bool
    ) -> None:
        monkeypatch.setattr("otel_cudagraph._guard._reported", set())
        install(None)
        if engine_first:
            importlib.import_module("toyengine")
        with caplog.at_level(logging.WARNING, "otel_cudagraph"), Pipeline() as pipeline:
            module = importlib.import_module(RUNNER)
            assert module.capture_all(lambda: "as ever") == "as ever"
            stand_in.capture()
            assert pipeline.total("cuda.graph.captures") == 1

        (record,) = caplog.records
        assert "with less telemetry" in record.getMessage()
        assert ADAPTER in str(record.exc_info[1])

    def test_what_the_engine_lacks_is_named_and_the_rest_is_hooked(self, install, caplog) -> None:
        lacking = (
            Hook(Place(RUNNER, "gone"), decision),
            Hook(Place(RUNNER, "Runner.capture"), decision),
            Hook(Place(RUNNER, "plan", parameters=("work", "size", "mode")), decision),
            # Somebody's wrapper says nothing of the parameters beneath it.
            Hook(Place(RUNNER, "decide", parameters=("size",)), decision),
        )
        install(adapter(HOOKS=(*lacking, *adapter().HOOKS)))
        with caplog.at_level(logging.WARNING, "otel_cudagraph"), Pipeline() as pipeline:
            importlib.import_module(RUNNER).capture_all(int)
            assert len(pipeline.triggers()) == 1

        (record,) = caplog.records
        assert record.getMessage() == (
            f"toyengine 1.2 has no {RUNNER}.gone, no {RUNNER}.Runner.capture, "
            f"no parameter size, mode of {RUNNER}.plan: its captures are recorded with less detail"
        )

    def test_hooks_of_other_versions_are_not_missed(self, install, caplog) -> None:
        others = (
            Hook(Place(RUNNER, "gone", before="1.2"), decision),
            Hook(Place(RUNNER, "to_come", since="1.3"), decision),
        )
        install(adapter(HOOKS=others))
        with caplog.at_level(logging.WARNING, "otel_cudagraph"), Pipeline():
            importlib.import_module(RUNNER)

        assert caplog.records == []


@pytest.mark.parametrize(
    ("version", "former", "newer"),
    [
        ("0.5.9", True, False),
        ("0.5.13.post1", True, False),
        ("0.5.14.dev3+gabc123", False, True),
        ("0.5.14rc1", False, True),
        ("0.5.14", False, True),
        ("0.5.14.post1+cu130", False, True),
        ("0.10.0", False, True),
        ("1!0.1", False, True),
        (None, False, True),
        ("not a version", False, True),
    ],
)
def test_bounds_of_versions(version: str | None, former: bool, newer: bool) -> None:
    assert Place("m", "f", before="0.5.14").belongs_to(version) is former
    assert Place("m", "f", since="0.5.14").belongs_to(version) is newer
    assert Place("m", "f").belongs_to(version)
    assert not Place("m", "f", since="0.5.12", before="0.5.14").belongs_to("0.5.11")


class TestPassingThrough:
    FUNCTIONS = pytest.mark.parametrize("name", ["capture_all", "maybe_capture", "decide"])

    @FUNCTIONS
    @pytest.mark.parametrize("outer", ["maybe_capture", None])
    def test_arguments_and_result(self, engine, pipeline, name: str, outer: str | None) -> None:
        first, second, result = object(), object(), object()
        calls = []

        def work(*args: object, **kwargs: object) -> object:
            calls.append((args, kwargs))
            return result

        function = getattr(engine, name)
        arguments = (work, first)
        got = (
            function(*arguments, key=second)
            if outer is None
            else getattr(engine, outer)(function, *arguments, key=second)
        )

        assert got is result
        ((args, kwargs),) = calls
        assert args[0] is first
        assert kwargs["key"] is second

    @FUNCTIONS
    @pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
    def test_exceptions(self, engine, pipeline, name: str, kind: type[BaseException]) -> None:
        error = kind("the host's")

        def work() -> None:
            raise error

        with pytest.raises(kind) as seen:
            getattr(engine, name)(work)

        assert seen.value is error
        assert error.__cause__ is None
        assert error.__context__ is None
        assert pipeline.total("cuda.graph.capture_trigger.active") == 0

    @FUNCTIONS
    def test_a_wrong_call_is_the_host_s_error(self, engine, pipeline, name: str) -> None:
        with pytest.raises(TypeError):
            getattr(engine, name)(3)

    @FUNCTIONS
    def test_the_function_looks_the_same(self, engine, name: str) -> None:
        function = getattr(engine, name)
        assert (function.__name__, function.__qualname__, function.__module__) == (name, name, RUNNER)
        assert inspect.signature(function) == inspect.signature(inspect.unwrap(function))


@pytest.mark.parametrize("wrap", [trigger, undecided_trigger])
def test_a_description_that_raises_leaves_the_call_alone(install, stand_in, wrap) -> None:
    def fails(*_: object) -> Descriptor:
        raise LookupError("the engine looks different")

    install(adapter(HOOKS=(Hook(Place(RUNNER, "capture_all"), described_by(wrap, fails)),)))
    with Pipeline() as pipeline:
        graph = importlib.import_module(RUNNER).capture_all(stand_in.capture)

        assert isinstance(graph, stand_in.module.StandInGraph)
        assert pipeline.triggers() == []
        assert pipeline.total("cuda.graph.captures") == 1


class TestUndecided:
    def test_it_is_a_trigger_once_decided(self, engine, pipeline, stand_in) -> None:
        def work() -> None:
            engine.decide()
            engine.decide()
            stand_in.capture()

        engine.maybe_capture(work)

        (span,) = pipeline.triggers()
        assert span.attributes["code.function.name"] == f"{RUNNER}.maybe_capture"
        assert [graph.parent_id for graph in pipeline.captures()] == [span.span_id]

    def test_it_is_none_where_nothing_is_decided(self, engine, pipeline) -> None:
        engine.maybe_capture(int)
        with pytest.raises(ZeroDivisionError):
            engine.maybe_capture(lambda: 1 / 0)
        engine.decide()

        assert pipeline.triggers() == []
        assert pipeline.total("cuda.graph.capture_triggers") == 0

    @pytest.mark.parametrize("decided_inside", [True, False])
    def test_one_inside_another_is_its_part(self, engine, pipeline, stand_in, decided_inside: bool) -> None:
        def outer() -> None:
            engine.maybe_capture(engine.decide if decided_inside else int)
            engine.decide()
            stand_in.capture()

        engine.maybe_capture(outer)

        (span,) = pipeline.triggers()
        assert [graph.parent_id for graph in pipeline.captures()] == [span.span_id]
        assert span.attributes["cuda.graph.captured"] == 1

    def test_one_inside_a_trigger_is_its_part(self, engine, pipeline) -> None:
        engine.capture_all(engine.maybe_capture, engine.decide)
        engine.maybe_capture(engine.decide, engine.capture_all, int)

        names = [span.attributes["code.function.name"] for span in pipeline.triggers()]
        assert names == [f"{RUNNER}.capture_all", f"{RUNNER}.maybe_capture"]

    def test_a_failure_after_the_decision_is_the_trigger_s(self, engine, pipeline) -> None:
        def work() -> None:
            engine.decide()
            raise MemoryError

        with pytest.raises(MemoryError):
            engine.maybe_capture(work)
        engine.decide()

        (span,) = pipeline.triggers()
        assert span.attributes["error.type"] == "MemoryError"

    def test_a_decision_in_a_server_s_thread_is_not_the_attempt_s(self, engine, pipeline) -> None:
        def work() -> None:
            thread = threading.Thread(target=engine.decide)
            thread.start()
            thread.join()

        engine.maybe_capture(work)

        assert pipeline.triggers() == []


class Local:
    """Stands for a tensor that a function holds in a variable."""


class TestLocals:
    """Looking at a host's variables must not keep them, nor change what the host sees."""

    @pytest.fixture
    def looked_at(self, install, stand_in) -> Iterator[list[str]]:
        """What an adapter found in the variables of this module's functions that capture."""
        seen: list[str] = []

        def look(frame: Any, _: object) -> Descriptor:
            seen.append(type(local(frame, "tensor")).__name__)
            return Descriptor(key=seen[-1])

        install(adapter(HOOKS=(), CALLERS=(Caller(__name__, "", Descriptor(engine="toy"), look),)))
        importlib.import_module("toyengine")
        gc.disable()
        yield seen
        gc.enable()

    def test_a_variable_dies_when_the_host_lets_go(self, stand_in, looked_at) -> None:
        def captures() -> weakref.ref[Local]:
            tensor = Local()
            reference = weakref.ref(tensor)
            with stand_in.module.graph(stand_in.graph()):
                pass
            del tensor
            assert reference() is None, "kept while the function runs"
            return reference

        with Pipeline():
            captures()
        assert looked_at == ["Local"]

    def test_a_generator_s_variable_dies_with_it(self, stand_in, looked_at) -> None:
        def captures() -> Iterator[weakref.ref[Local]]:
            tensor = Local()
            with stand_in.module.graph(stand_in.graph()):
                yield weakref.ref(tensor)

        with Pipeline():
            generator = captures()
            reference = next(generator)
            assert reference() is not None
            generator.close()
            assert reference() is None
        assert looked_at == ["Local"]

    def test_the_host_s_own_view_of_its_variables_stays(self, stand_in, looked_at) -> None:
        def captures() -> None:
            tensor = Local()
            mine = locals()
            with stand_in.module.graph(stand_in.graph()):
                pass
            assert mine["tensor"] is tensor

        with Pipeline():
            captures()
        assert looked_at == ["Local"]


class TestImportWatch:
    @pytest.fixture
    def module(self, monkeypatch, tmp_path) -> Iterator[str]:
        name = "imported_late"
        (tmp_path / f"{name}.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
        yield name
        sys.modules.pop(name, None)

    def test_it_calls_once_after_the_import(self, module) -> None:
        watch, later, called = ImportWatch(), ImportWatch(), []
        watch.when_imported(module, lambda: called.append(module in sys.modules))
        assert called == []
        importlib.import_module(module)
        del sys.modules[module]
        later.when_imported(module, lambda: called.append("later"))
        importlib.import_module(module)
        assert called == [True, "later"]

    def test_it_calls_at_once_where_it_is_imported(self) -> None:
        called = []
        ImportWatch().when_imported("sys", lambda: called.append(1))
        assert called == [1]

    def test_closed_it_calls_nothing(self, module) -> None:
        closed, other, called = ImportWatch(), ImportWatch(), []
        closed.when_imported(module, lambda: called.append("closed"))
        other.when_imported(module, lambda: called.append("other"))
        closed.close()
        importlib.import_module(module)
        assert called == ["other"]

    def test_an_error_stays_out_of_the_import_and_of_the_next(self, module) -> None:
        watch, called = ImportWatch(), []
        watch.when_imported(module, lambda: 1 / 0)
        watch.when_imported(module, lambda: called.append(1))
        importlib.import_module(module)
        assert called == [1]


class TestHolders:
    """Modules that hold a function by ``from owner import function``."""

    @pytest.fixture
    def modules(self, monkeypatch) -> dict[str, ModuleType]:
        made = {name: ModuleType(name) for name in ("owner_of_it", "holder", "late_holder", "other")}
        for name, module in made.items():
            monkeypatch.setitem(sys.modules, name, module)
        made["owner_of_it"].function = made["holder"].function = lambda: "original"
        made["other"].function = lambda: "another of that name"
        return made

    @pytest.fixture
    def patches(self, modules) -> PatchSet:
        patches = PatchSet()
        patches.replace(
            modules["owner_of_it"],
            "function",
            lambda original: lambda: f"patched {original()}",
            holders=("holder", "late_holder", "other", "not_imported"),
        )
        return patches

    def test_they_hold_the_replacement(self, modules, patches) -> None:
        assert modules["owner_of_it"].function() == modules["holder"].function() == "patched original"
        assert modules["other"].function() == "another of that name"
        assert not hasattr(modules["late_holder"], "function")

    def test_they_have_the_original_again(self, modules, patches) -> None:
        modules["late_holder"].function = modules["owner_of_it"].function
        patches.restore()

        assert modules["owner_of_it"].function() == "original"
        for name in ("holder", "late_holder"):
            assert modules[name].function is modules["owner_of_it"].function
        assert modules["other"].function() == "another of that name"

    def test_what_somebody_else_put_there_since_stays(self, modules, patches) -> None:
        theirs = modules["holder"].function = lambda: "theirs"
        patches.restore()

        assert modules["holder"].function is theirs
        assert modules["owner_of_it"].function() == "original"

    def test_torch_compile_is_told_not_to_look_into_it(self, modules, patches) -> None:
        assert modules["holder"].function._torchdynamo_disable


def test_an_undecided_trigger_cannot_be_opened_once_it_has_ended(pipeline) -> None:
    """A task that the call leaves behind still has its context."""
    left: list[contextvars.Context] = []
    engine_call = undecided_trigger(lambda: left.append(contextvars.copy_context()), describe)

    engine_call()
    left[0].run(decision(lambda: None))

    assert pipeline.triggers() == []
    assert pipeline.total("cuda.graph.capture_triggers") == 0


def test_an_undecided_trigger_starts_where_the_call_did(pipeline, stand_in) -> None:
    moments = []

    def engine_call() -> None:
        moments.append(time.time_ns())
        decision(lambda: None)()
        decision(stand_in.capture)()

    undecided_trigger(engine_call, describe)()

    (trigger_span,) = pipeline.triggers()
    assert trigger_span.start_ns <= moments[0]
    assert trigger_span.attributes["cuda.graph.captured"] == 1


def test_an_undecided_trigger_does_not_start_before_a_span_that_it_lies_in(pipeline, stand_in) -> None:
    tracer = pipeline.tracer_provider.get_tracer("engine")

    def engine_call() -> None:
        with tracer.start_as_current_span("engine's own"):
            decision(stand_in.capture)()

    undecided_trigger(engine_call, describe)()

    (trigger_span,) = pipeline.triggers()
    (own,) = pipeline.received.spans("engine's own")
    assert trigger_span.parent_id == own.span_id
    assert own.start_ns <= trigger_span.start_ns
    assert not trace.get_current_span().get_span_context().is_valid  # neither is left behind


@pytest.mark.parametrize("version", ["0.1.dev1+g1234567", "dev", "0.0.0.dev0"])
def test_a_build_from_source_is_hooked_whatever_it_calls_itself(
    version: str, monkeypatch, tmp_path, stand_in, caplog
) -> None:
    fake = install_fake("vllm", version, monkeypatch, tmp_path)
    next(fake)
    module = importlib.import_module("vllm.v1.worker.gpu.model_runner")
    with Pipeline() as pipeline:
        module.GPUModelRunner("FULL", sizes=(1,)).capture_model()
        assert len(pipeline.triggers()) == 1
    next(fake, None)


def test_callers_are_forgotten_with_their_adapter(install) -> None:
    from otel_cudagraph import attribution

    before = list(attribution._adapted)
    for _ in range(2):
        install(adapter(CALLERS=(Caller("toyengine.", "", Descriptor("toy")),)))
        with Pipeline():
            importlib.import_module(RUNNER)
        assert attribution._adapted == before
