"""A warning in place of silence: an engine captures, and its trigger is never seen."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from otel_cudagraph.facts import Capture
from otel_cudagraph.semconv import Purpose

if TYPE_CHECKING:
    from otel_cudagraph.adapters.loading import Adapters
    from otel_cudagraph.facts import Trigger

_MANY = 16
"""Graphs without a key that are too many to be a model's own."""

_logger = logging.getLogger(__name__)


class TriggerCheck:
    """Looks at what has become spans, away from the captures."""

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters
        self._settled: set[str | None] = set()
        """Engines of which a trigger was seen, or of which the lack of one was said."""
        self._nameless: Counter[str | None] = Counter()
        """Graphs without a key, by engine."""

    def look_at(self, fact: Capture | Trigger) -> None:
        """Warn at the first serving graph outside a trigger of an engine that captures in triggers."""
        engine = fact.descriptor.engine
        if isinstance(fact, Capture) and fact.trigger is None:
            if self._is_amiss(fact):
                self._settled.add(engine)
                _logger.warning(
                    "%s captures CUDA graphs and no capture trigger of it was seen: %s. "
                    "Graphs are counted all the same, triggers are not",
                    engine,
                    self._adapters.explain_missing_triggers(str(engine)),
                )
        else:
            self._settled.add(engine)

    def _is_amiss(self, capture: Capture) -> bool:
        descriptor = capture.descriptor
        if (
            capture.failure is not None
            or descriptor.purpose is not Purpose.SERVING
            or descriptor.engine in self._settled
            or not self._adapters.expects_triggers(descriptor.engine)
        ):
            return False
        # A graph with a key is one of a model runner's batches. Others may be a model's own,
        # captured while it is loaded; where the keys cannot be read either, there are many.
        self._nameless[descriptor.engine] += 1
        return descriptor.key is not None or self._nameless[descriptor.engine] >= _MANY
