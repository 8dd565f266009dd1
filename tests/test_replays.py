"""Replays: counted exactly, and only when they happened."""

from __future__ import annotations

import threading

import pytest

from otel_cudagraph import Config, batch_descriptor
from otel_cudagraph.choke_point import _beneath_bare_shim
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
