"""`expect` in this process: what it finds wrong, and how it says so."""

from __future__ import annotations

import enum
import re
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider

from otel_cudagraph import CudaGraphInstrumentor, batch_descriptor, capture_trigger
from otel_cudagraph.testing import InProcessCaptures
from tests import plain_graphs
from tests.toy_engine import capture_model, capture_one

KEYS = ["batch=8", "batch=4", "batch=2"]


@pytest.fixture
def captures() -> Iterator[InProcessCaptures]:
    with InProcessCaptures() as running:
        yield running


def failure(captures: InProcessCaptures, block, **expected) -> list[str]:
    """Return the lines of the failure of a block, without what a clock had a part in."""
    with pytest.raises(AssertionError) as raised, captures.expect(**expected):
        block()
    return [re.sub(r" +[\d.]+ (µs|ms|s) \|.{24}\| ", " ~ ", line) for line in str(raised.value).splitlines()]


def test_what_was_captured(captures: InProcessCaptures) -> None:
    with captures.expect(
        triggers=1, graphs=3, failed=0, engine="toy", mode="FULL", phase="startup", keys=KEYS
    ) as captured:
        capture_model()

    (trigger,) = captured.triggers
    assert (trigger.engine, trigger.mode, trigger.failed) == ("toy", "FULL", False)
    assert trigger.graphs == captured.graphs == captured.captures
    assert [graph.key for graph in captured.graphs] == KEYS
    assert [graph.batch_size for graph in captured.graphs] == [8, 4, 2]
    assert all(graph.trigger is trigger for graph in captured.graphs)
    assert {(g.purpose, g.phase, g.num_tokens, g.failed, g.error_type) for g in captured.graphs} == {
        ("serving", "startup", None, False, None)
    }
    assert 0 < captured.graphs[0].duration_s < trigger.duration_s
    assert captured.graphs[0].attributes["cuda.graph.simulated"] is True
    assert captured.failures == []


def test_a_missing_graph(captures: InProcessCaptures) -> None:
    assert failure(captures, lambda: capture_model((8, 4)), triggers=1, graphs=3, keys=KEYS) == [
        "the captures are not as expected",
        "expected: triggers=1, graphs=3, failed=0, keys=[batch=8, batch=4, batch=2] (purpose=serving)",
        "seen:     triggers=1, graphs=2, failed=0, replays=0",
        "- graphs: expected 3, saw 2",
        "- missing keys: [batch=2]",
        "",
        "Everything captured in the block:",
        "cuda.graph.capture_trigger toy FULL ~ ok",
        "  batch=8 ~ ok",
        "  batch=4 ~ ok",
    ]


def test_one_too_many(captures: InProcessCaptures) -> None:
    lines = failure(captures, lambda: capture_model((8, 4, 2, 2)), triggers=1, graphs=3, keys=KEYS)

    assert "- graphs: expected 3, saw 4" in lines
    assert "- unexpected keys: [batch=2]" in lines
    assert lines[-2:] == ["  batch=2 ~ ok", "  batch=2 ~ ok  (unexpected key)"]


def test_one_trigger_too_many(captures: InProcessCaptures) -> None:
    def twice() -> None:
        capture_model()
        capture_model()

    assert "- triggers: expected 1, saw 2" in failure(captures, twice, triggers=1)


def test_a_profiling_graph_is_no_serving_graph(captures: InProcessCaptures) -> None:
    lines = failure(captures, lambda: capture_model((8,), purpose="profiling"), triggers=1, graphs=1)

    assert "seen:     triggers=0, graphs=0, failed=0, replays=0" in lines
    assert lines[-2:] == [
        "cuda.graph.capture_trigger toy FULL ~ ok  (not counted: purpose=profiling)",
        "  batch=8 ~ ok  (not counted: purpose=profiling)",
    ]


def test_a_serving_graph_is_no_profiling_graph(captures: InProcessCaptures) -> None:
    lines = failure(captures, lambda: capture_model((8,)), graphs=1, purpose="profiling")

    assert lines[1] == "expected: graphs=1, failed=0 (purpose=profiling)"
    assert lines[-1] == "  batch=8 ~ ok  (not counted: purpose=serving)"


def test_profiling_beside_serving_does_not_disturb(captures: InProcessCaptures) -> None:
    with captures.expect(triggers=1, graphs=3, keys=KEYS) as captured:
        capture_model((8,), purpose="profiling")
        capture_model()

    assert len(captured.captures) == 4


def test_any_purpose(captures: InProcessCaptures) -> None:
    with captures.expect(triggers=2, graphs=4, purpose=None):
        capture_model((8,), purpose="profiling")
        capture_model()


def test_another_engine_and_another_mode(captures: InProcessCaptures) -> None:
    def block() -> None:
        capture_model((8,), engine="other")
        capture_model((4,), mode="PIECEWISE")

    lines = failure(captures, block, triggers=1, graphs=1, engine="toy", mode="FULL")

    assert "- graphs: expected 1, saw 0" in lines
    assert not any(line.startswith("- triggers") for line in lines), "a trigger has the configured mode"
    assert lines[-4:] == [
        "cuda.graph.capture_trigger other FULL ~ ok  (not counted: engine=other)",
        "  batch=8 ~ ok  (not counted: engine=other)",
        "cuda.graph.capture_trigger toy PIECEWISE ~ ok",
        "  batch=4 ~ ok  (not counted: mode=PIECEWISE)",
    ]


def test_another_phase(captures: InProcessCaptures) -> None:
    def block() -> None:
        capture_model((8,))
        capture_model((8, 4))

    lines = failure(captures, block, triggers=2, graphs=1, phase="startup")

    assert "- graphs: expected 1, saw 2" in lines
    assert lines[-2] == "  batch=8 ~ ok  (not counted: phase=recapture)"
    with captures.expect(triggers=1, graphs=1, phase="recapture"):
        capture_model((8,))


def test_an_engine_s_own_mode_enum(captures: InProcessCaptures) -> None:
    mode = enum.Enum("Mode", ["FULL"]).FULL

    with captures.expect(graphs=3, mode=mode):
        capture_model()


def test_a_wrong_key(captures: InProcessCaptures) -> None:
    lines = failure(captures, lambda: capture_model((8, 5, 2)), keys=KEYS)

    assert "- missing keys: [batch=4]" in lines
    assert "- unexpected keys: [batch=5]" in lines
    assert "  batch=5 ~ ok  (unexpected key)" in lines


def test_keys_in_another_order(captures: InProcessCaptures) -> None:
    lines = failure(captures, lambda: capture_model((8, 2, 4)), keys=KEYS)

    assert [line for line in lines if line.startswith("-")] == [
        "- keys in another order: expected [batch=8, batch=4, batch=2], saw [batch=8, batch=2, batch=4]"
    ]


def test_keys_as_a_set_in_any_order_and_number(captures: InProcessCaptures) -> None:
    with captures.expect(keys=set(KEYS)):
        capture_model((2, 4, 8, 8))

    lines = failure(captures, lambda: capture_model((8, 5)), keys=set(KEYS))

    assert "- missing keys: [batch=2, batch=4]" in [sorted_keys(line) for line in lines]
    assert "- unexpected keys: [batch=5]" in lines


def sorted_keys(line: str) -> str:
    head, bracket, rest = line.partition("[")
    return head + bracket + ", ".join(sorted(rest.rstrip("]").split(", "))) + "]" if bracket else line


def test_many_keys_are_cut_short(captures: InProcessCaptures) -> None:
    lines = failure(captures, lambda: capture_model((8,)), keys=[f"k{i}" for i in range(2_000)])

    assert all(len(line) < 300 for line in lines)
    assert any("and 1,980 more" in line for line in lines)


def test_smallest_first(captures: InProcessCaptures) -> None:
    lines = failure(captures, lambda: capture_model((8, 2, 4)), largest_first=True)

    assert "- largest_first: batch=2 was captured before batch=4" in lines


def test_largest_first_holds_for_each_mode_of_each_trigger(captures: InProcessCaptures) -> None:
    with captures.expect(largest_first=True):
        with capture_trigger(runtime_mode="FULL_AND_PIECEWISE"):
            for mode in ("PIECEWISE", "FULL"):
                for size in (8, 8, 4):
                    capture_one(size, runtime_mode=mode)
        capture_model((16,))


def test_largest_first_prefers_tokens(captures: InProcessCaptures) -> None:
    def block() -> None:
        with capture_trigger():
            for tokens in (4, 8):
                with batch_descriptor(num_tokens=tokens):
                    capture_one(12 - tokens)

    assert "- largest_first: batch=8 was captured before batch=4" in failure(
        captures, block, largest_first=True
    )


def test_largest_first_needs_sizes(captures: InProcessCaptures) -> None:
    def block() -> None:
        with batch_descriptor("unsized"), plain_graphs.capture(plain_graphs.PlainGraph()):
            pass

    text = "- largest_first: unsized says neither num_tokens nor batch_size"
    assert text in failure(captures, block, largest_first=True)
    assert "- largest_first: there was no graph to look at" in failure(
        captures, lambda: None, largest_first=True
    )


def swallowed_failure() -> None:
    with pytest.raises(ValueError, match="no"), capture_trigger(engine="toy", runtime_mode="FULL"):
        capture_one(8)
        capture_one(4, ValueError("no"))


def test_a_failed_capture(captures: InProcessCaptures) -> None:
    lines = failure(captures, swallowed_failure, triggers=1, graphs=2)

    assert "- graphs: expected 2, saw 1" in lines
    assert "- failed: expected 0, saw 1" in lines
    assert lines[-3:] == [
        "cuda.graph.capture_trigger toy FULL ~ ERROR ValueError",
        "  batch=8 ~ ok",
        "  batch=4 ~ ERROR ValueError",
    ]


def test_an_expected_failure(captures: InProcessCaptures) -> None:
    with captures.expect(triggers=1, graphs=1, failed=1) as captured:
        swallowed_failure()

    (failed,) = captured.failures
    assert (failed.key, failed.error_type, failed.failed) == ("batch=4", "ValueError", True)
    with captures.expect(graphs=1, failed=None):
        swallowed_failure()


def test_a_trigger_that_fails_without_a_capture(captures: InProcessCaptures) -> None:
    def block() -> None:
        with pytest.raises(MemoryError), capture_trigger(engine="toy"):
            capture_one(8)
            raise MemoryError

    assert "- a trigger failed: MemoryError" in failure(captures, block, graphs=1)


def test_replays(captures: InProcessCaptures) -> None:
    before = capture_model((8,))[0]
    before.replay()

    with captures.expect(replays=3) as captured:
        before.replay()
        graph = capture_model((4,), mode="PIECEWISE")[0]
        graph.replay()
        graph.replay()
        capture_model((2,), purpose="profiling")[0].replay()

    assert captured.replays() == 3
    assert captured.replays(mode="PIECEWISE") == 2
    assert captured.replays(purpose="profiling") == 1
    assert captured.replays(purpose=None) == 4
    assert captured.replays(engine="other") == 0
    assert "- replays: expected 2, saw 1" in failure(captures, before.replay, replays=2)


def test_a_slow_trigger(captures: InProcessCaptures) -> None:
    (problem,) = [
        line for line in failure(captures, capture_model, max_trigger_s=1e-9) if line.startswith("- max")
    ]

    assert problem.startswith("- max_trigger_s: expected at most 1e-09 s, a trigger took ")
    with captures.expect(max_trigger_s=3600):
        capture_model()
    assert "- max_trigger_s=1: there was no trigger to measure" in failure(
        captures, lambda: None, max_trigger_s=1
    )


def test_nothing_captured_says_what_to_check(captures: InProcessCaptures) -> None:
    text = "\n".join(failure(captures, lambda: None, triggers=1))

    assert "Nothing was captured in the block. To check:" in text
    assert "cudagraphs_otlp" in text
    assert "NONE" in text


def test_nothing_expected(captures: InProcessCaptures) -> None:
    with captures.expect(triggers=0, graphs=0, purpose=None):
        pass
    assert "- graphs: expected 0, saw 3" in failure(captures, capture_model, graphs=0)


def test_only_the_block_counts(captures: InProcessCaptures) -> None:
    capture_model()
    with captures.expect(triggers=1, graphs=2):
        capture_model((1, 3))
    with captures.expect(triggers=2, graphs=2) as outer:
        with captures.expect(triggers=1, graphs=1, keys=["batch=16"]) as inner:
            capture_model((16,))
        capture_model((32,))

    assert len(inner.graphs) == 1
    assert [graph.key for graph in outer.graphs] == ["batch=16", "batch=32"]


def test_captures_in_threads_and_outside_triggers(captures: InProcessCaptures) -> None:
    with captures.expect(triggers=1, graphs=2) as captured:
        capture_one(4)
        with capture_trigger(engine="toy"):
            thread = threading.Thread(target=capture_one, args=(8,))
            thread.start()
            thread.join()

    assert [graph.trigger for graph in captured.graphs] == [None, captured.triggers[0]]


def test_an_engine_s_own_span_between_trigger_and_capture(captures: InProcessCaptures) -> None:
    """It goes to the engine's provider, not to the test's."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("engine")
    with (
        captures.expect(triggers=1, graphs=1, mode="FULL") as captured,
        capture_trigger(engine="toy", runtime_mode="FULL"),
        tracer.start_as_current_span("piece"),
    ):
        capture_one(8)

    assert captured.graphs[0].trigger is captured.triggers[0]
    assert captured.show().splitlines()[1].startswith("  batch=8 ")


def test_a_block_s_exception_goes_on_untouched(captures: InProcessCaptures) -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as raised, captures.expect(triggers=5) as captured:
        capture_model((8,))
        raise error

    assert raised.value is error
    assert error.__context__ is None
    assert len(captured.graphs) == 1


def test_inside_the_block_nothing_is_known(captures: InProcessCaptures) -> None:
    with captures.expect() as captured, pytest.raises(RuntimeError, match="after the"):
        captured.graphs  # noqa: B018


def test_a_trigger_must_not_straddle_the_block(captures: InProcessCaptures) -> None:
    with capture_trigger(), pytest.raises(RuntimeError, match="under way"):
        captures.expect(graphs=1).__enter__()

    trigger = capture_trigger()
    lines = failure(captures, trigger.__enter__, triggers=1)
    trigger.__exit__(None, None, None)

    assert "- 1 capture trigger(s) still under way when the block ended" in lines


def test_a_capture_outside_its_trigger_in_time(captures: InProcessCaptures) -> None:
    """A thread ends its capture when the trigger is over."""

    def block() -> None:
        may_end, began = threading.Event(), threading.Event()

        def late() -> None:
            with batch_descriptor("late"), plain_graphs.capture(plain_graphs.PlainGraph()):
                began.set()
                may_end.wait()

        with capture_trigger(engine="toy"):
            thread = threading.Thread(target=late)
            thread.start()
            began.wait()
        may_end.set()
        thread.join()

    lines = failure(captures, block, triggers=1, graphs=1)

    assert "- the capture late lies outside its trigger in time" in lines
    assert "- a trigger says that it had 0 capture(s), there are 1 below it" in lines


@pytest.mark.parametrize(
    ("name", "span_name"),
    [
        ("cuda.graph.captures", "cuda.graph.capture"),
        ("cuda.graph.capture_triggers", "cuda.graph.capture_trigger"),
    ],
)
def test_counters_that_disagree_with_the_spans(captures: InProcessCaptures, name, span_name) -> None:
    """A span that is lost on its way."""

    def block() -> None:
        capture_model((8,))
        CudaGraphInstrumentor().hand_over()
        captures.received.traces[:] = [
            data
            for data in captures.received.traces
            if data.resource_spans[0].scope_spans[0].spans[0].name != span_name
        ]

    lines = failure(captures, block)

    assert f"- the counter {name} says 1, there are 0 such spans since the test began" in lines


def test_instrumentation_that_was_taken_out(captures: InProcessCaptures) -> None:
    with pytest.raises(RuntimeError, match="taken out"), captures.expect(graphs=0):
        CudaGraphInstrumentor().uninstrument()


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"purpose": "warmup"}, ValueError, "purpose='warmup' .* serving, profiling, benchmark, internal"),
        ({"phase": "later"}, ValueError, "phase='later' .* startup, runtime, recapture"),
        ({"graphs": -1}, ValueError, "graphs=-1 is negative; use a whole number from 0"),
        ({"triggers": 1.5}, TypeError, "triggers=1.5 .* whole number"),
        ({"failed": True}, TypeError, "failed=True .* whole number"),
        ({"replays": "2"}, TypeError, "replays='2' .* whole number"),
        ({"engine": 3}, TypeError, "engine=3 is no text"),
        ({"keys": "batch=8"}, TypeError, "keys='batch=8' .* list of texts"),
        ({"keys": [8]}, TypeError, "8 in keys .* list of texts"),
        ({"max_trigger_s": "1"}, TypeError, "max_trigger_s='1' .* seconds above 0"),
        ({"max_trigger_s": 0}, ValueError, "max_trigger_s=0 .* seconds above 0"),
        ({"timeout_s": float("nan")}, ValueError, "timeout_s=nan .* seconds above 0"),
        ({"graph": 3}, TypeError, "no parameter 'graph'; it has: triggers, graphs, .*timeout_s"),
    ],
    ids=str,
)
def test_wrong_arguments(captures: InProcessCaptures, wrong, error, words) -> None:
    with pytest.raises(error, match=words):
        captures.expect(**wrong)


def test_a_trigger_that_failed_of_a_graph_that_does_not_count(captures: InProcessCaptures) -> None:
    def block() -> None:
        with pytest.raises(OSError, match="out"), capture_trigger(engine="toy"):
            capture_one(1, runtime_mode="FULL")
            capture_one(2, OSError("out"), runtime_mode="PIECEWISE")

    assert "- a trigger failed: OSError" in failure(captures, block, triggers=1, graphs=1, mode="FULL")


def test_a_capture_that_is_open_when_the_block_ends(captures: InProcessCaptures) -> None:
    graph = plain_graphs.PlainGraph()

    with pytest.raises(RuntimeError, match="being captured at the end"), captures.expect(graphs=0):
        graph.capture_begin()
    with pytest.raises(RuntimeError, match="being captured at the beginning"), captures.expect(graphs=0):
        pass
    graph.capture_end()


def test_an_expectation_without_with() -> None:
    message = r"expect\(triggers=99, .*was called without `with`"
    with pytest.raises(AssertionError, match=message), InProcessCaptures() as captures:
        captures.expect(triggers=99)


def test_an_expectation_without_with_does_not_hide_an_error() -> None:
    with pytest.raises(KeyError), InProcessCaptures() as captures:
        captures.expect(triggers=99)
        raise KeyError


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_largest_first_is_true_or_false(captures: InProcessCaptures, value: object) -> None:
    with pytest.raises(TypeError, match=re.escape(f"largest_first={value!r}")):
        captures.expect(largest_first=value)
