"""A warning in place of silence: an engine captures, and its trigger is never seen."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from otel_cudagraph.facts import Capture
from otel_cudagraph.semconv import Purpose

if TYPE_CHECKING:
    from otel_cudagraph.adapters.loading import Adapters
    from otel_cudagraph.facts import Trigger

_logger = logging.getLogger(__name__)


class TriggerCheck:
    """Looks at what has become spans, away from the captures."""

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters
        self._settled: set[str | None] = set()
        """Engines of which a trigger was seen, or of which the lack of one was said."""

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
        return (
            capture.failure is None
            and descriptor.purpose is Purpose.SERVING
            and descriptor.engine not in self._settled
            and self._adapters.expects_triggers(descriptor.engine)
        )
