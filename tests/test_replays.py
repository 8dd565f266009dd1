"""Replays: counted exactly, and only when they happened."""

from __future__ import annotations

import threading

import pytest

from otel_cudagraph import Config, batch_descriptor, register_graph_family
from otel_cudagraph.choke_point import _beneath_bare_shim
from tests import plain_graphs
from tests.conftest import StandIn
from tests.pipeline import Pipeline


def test_replays_are_counted_by_mode(pipeline: Pipeline, stand_in: StandIn) -> None:
    for mode, replays in (("FULL", 2), ("PIECEWISE", 3)):
        with batch_descriptor(runtime_mode=mode):
            graph = stand_in.capture()
        for _ in range(replays):
            graph.replay()

    assert pipeline.total("cuda.graph.replays", runtime_mode="FULL") == 2
    assert pipeline.total("cuda.graph.replays", runtime_mode="PIECEWISE") == 3


def test_reading_the_count_does_not_change_it(pipeline: Pipeline, stand_in: StandIn) -> None:
    graph = stand_in.capture()
    for expected in range(1, 4):
        graph.replay()
        assert pipeline.total("cuda.graph.replays") == expected
        assert pipeline.total("cuda.graph.replays") == expected


def test_replay_that_raises_is_not_counted(pipeline: Pipeline, stand_in: StandIn) -> None:
    graph = stand_in.capture()
    graph._operations = None

    with pytest.raises(stand_in.module.StandInError):
        graph.replay()

    assert pipeline.total("cuda.graph.replays") == 0


def test_replays_of_dead_and_reset_graphs_stay_counted(pipeline: Pipeline, stand_in: StandIn) -> None:
    stand_in.capture().replay()
    graph = stand_in.capture()
    graph.replay()
    graph.reset()
    stand_in.capture(graph).replay()

    assert pipeline.total("cuda.graph.replays") == 3


def test_replays_from_four_threads(pipeline: Pipeline, stand_in: StandIn) -> None:
    graph = stand_in.capture()
    threads = [threading.Thread(target=lambda: [graph.replay() for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert pipeline.total("cuda.graph.replays") == 2000


def test_graph_captured_before_instrument_counts_from_its_first_replay(stand_in: StandIn) -> None:
    graph = stand_in.capture()
    with Pipeline() as pipeline:
        graph.replay()
        graph.replay()

        assert pipeline.total("cuda.graph.replays") == 2
        assert pipeline.total("cuda.graph.count") == 1
        assert pipeline.total("cuda.graph.captures") == 0


def test_bound_replay_held_elsewhere_goes_on_and_stops_counting(stand_in: StandIn) -> None:
    """vLLM's breakable segments keep the bound method."""
    with Pipeline() as pipeline:
        graph = stand_in.capture()
        held = graph.replay
        held()
        assert pipeline.total("cuda.graph.replays") == 1
        pipeline.instrumentor.uninstrument()
        held()
        assert not [name for name in vars(graph) if "otel" in name]

    with Pipeline() as pipeline:
        assert pipeline.total("cuda.graph.replays") == 0


def test_switched_off(stand_in: StandIn) -> None:
    stock = vars(stand_in.module.StandInGraph)["replay"]
    with Pipeline(Config(replays=False)) as pipeline:
        stand_in.capture().replay()

        assert vars(stand_in.module.StandInGraph)["replay"] is stock
        assert pipeline.total("cuda.graph.captures") == 1
        assert pipeline.total("cuda.graph.replays") == 0


class TestBareShim:
    """torch up to 2.12: the method beneath torch's own is called directly, and the count comes first."""

    @pytest.fixture
    def graph(self, plain_pipeline: Pipeline) -> plain_graphs.PlainGraph:
        graph = plain_graphs.PlainGraph()
        with plain_graphs.capture(graph):
            pass
        return graph

    @pytest.fixture
    def plain_pipeline(self):
        register_graph_family(plain_graphs.FAMILY)
        with Pipeline() as running:
            yield running

    def test_counts(self, plain_pipeline: Pipeline, graph: plain_graphs.PlainGraph) -> None:
        for _ in range(3):
            assert graph.replay() is None

        assert plain_pipeline.total("cuda.graph.replays") == 3
        assert plain_pipeline.total("cuda.graph.replays") == 3

    def test_replay_that_raises_is_not_counted(self, plain_pipeline, graph) -> None:
        graph.replay()
        graph.error = error = RuntimeError("CUDA error")
        with pytest.raises(RuntimeError) as seen:
            graph.replay()

        assert seen.value is error
        assert error.__context__ is None
        assert plain_pipeline.total("cuda.graph.replays") == 1

    def test_leftover_of_ours_stays_inert_when_instrumented_again(self, plain_pipeline, graph) -> None:
        """Somebody saved our method while it was there, and put it back after `uninstrument()`."""
        stock = plain_graphs.PlainGraph.replay.__wrapped__
        leftover = plain_graphs.PlainGraph.replay
        plain_pipeline.instrumentor.uninstrument()
        plain_graphs.PlainGraph.replay = leftover
        try:
            plain_pipeline.instrumentor.instrument(
                tracer_provider=plain_pipeline.tracer_provider, meter_provider=plain_pipeline.meter_provider
            )
            graph.replay()  # by which the graph is known again
            graph.replay()

            assert plain_pipeline.total("cuda.graph.replays") == 2
            plain_pipeline.instrumentor.uninstrument()
        finally:
            plain_graphs.PlainGraph.replay = stock

    def test_graph_that_was_not_seen_captured(self, plain_pipeline) -> None:
        graph = plain_graphs.PlainGraph()
        graph.error = error = RuntimeError("replay without a preceding successful capture")
        with pytest.raises(RuntimeError):
            graph.replay()
        assert error.__context__ is None
        assert plain_pipeline.total("cuda.graph.replays") == 0
        assert plain_pipeline.total("cuda.graph.count") == 0

        graph.error = None
        graph.replay()
        graph.replay()
        assert plain_pipeline.total("cuda.graph.replays") == 2
        assert plain_pipeline.total("cuda.graph.count") == 1


class Launcher:
    def replay(self) -> str:
        return "launched"


class Bare(Launcher):
    def replay(self) -> None:
        """As torch up to 2.12 has it."""
        super().replay()


class Busy(Launcher):
    def replay(self) -> None:
        self.ready = True
        super().replay()


def test_only_a_shim_that_does_nothing_is_skipped() -> None:
    assert _beneath_bare_shim(Bare.replay) is Launcher.replay
    assert _beneath_bare_shim(Busy.replay) is None
    assert _beneath_bare_shim(len) is None
    assert _beneath_bare_shim(lambda self: None) is None
