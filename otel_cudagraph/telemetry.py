"""Spans and metrics, made of facts. Owns tracer, meter and instruments; keeps no state of captures."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from opentelemetry.metrics import Observation
from opentelemetry.trace import Status, StatusCode

from otel_cudagraph import semconv
from otel_cudagraph.attributes import (
    capture_attributes,
    capture_series,
    trigger_end_attributes,
    trigger_series,
)
from otel_cudagraph.clock import seconds
from otel_cudagraph.facts import Capture
from otel_cudagraph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeAlias

    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from otel_cudagraph.attributes import Attributes, Series
    from otel_cudagraph.facts import Failure, Trigger
    from otel_cudagraph.ledger import Ledger

    Counts: TypeAlias = Callable[[], Mapping[Series, int]]


class Telemetry:
    """Emits what has been recorded. Runs away from the capturing thread."""

    def __init__(self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> None:
        """Use the given providers; None is the global one, also where that is set later."""
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self._tracer = trace.get_tracer(semconv.SCOPE, __version__, tracer_provider)
        self._meter = metrics.get_meter(semconv.SCOPE, __version__, meter_provider)
        self._capture_duration = self._meter.create_histogram(
            semconv.METRIC_CAPTURE_DURATION,
            unit="s",
            description="Duration of graph captures, from preparation to instantiation.",
            explicit_bucket_boundaries_advisory=semconv.CAPTURE_DURATION_BUCKETS,
        )
        self._trigger_duration = self._meter.create_histogram(
            semconv.METRIC_CAPTURE_TRIGGER_DURATION,
            unit="s",
            description="Duration of a model runner's attempts to capture its graphs.",
            explicit_bucket_boundaries_advisory=semconv.CAPTURE_TRIGGER_DURATION_BUCKETS,
        )

    def observe(self, ledger: Ledger) -> None:
        """Let the metric readers read `ledger`. Once per ledger: callbacks cannot be taken back."""
        _observe_ledger(self._meter, ledger)

    def start_trigger_span(self, parent: Context, start_unix_ns: int, attributes: Attributes) -> Span:
        """Start the one span that must exist before its end: others become its children."""
        return self._tracer.start_span(
            semconv.SPAN_CAPTURE_TRIGGER, context=parent, attributes=attributes, start_time=start_unix_ns
        )

    def emit(self, fact: Capture | Trigger) -> None:
        """Make the span and the histogram point of a finished capture or trigger."""
        if isinstance(fact, Capture):
            self._emit_capture(fact)
        else:
            self._emit_trigger(fact)

    def force_flush(self, timeout_millis: int) -> bool:
        """Ask both providers to deliver what they hold; a provider of the API alone holds nothing."""
        spans = self.flush_spans(timeout_millis)
        return flush_provider(self._meter_provider or metrics.get_meter_provider(), timeout_millis) and spans

    def flush_spans(self, timeout_millis: int) -> bool:
        """Ask the tracer provider to deliver what it holds."""
        return flush_provider(self._tracer_provider or trace.get_tracer_provider(), timeout_millis)

    def _emit_capture(self, capture: Capture) -> None:
        context = capture.parent
        try:
            span = self._tracer.start_span(
                semconv.SPAN_CAPTURE,
                context=capture.parent,
                attributes=capture_attributes(capture),
                start_time=capture.anchor.to_unix_ns(capture.started_ns),
            )
            context = trace.set_span_in_context(span, capture.parent)
            finished = capture.anchor.to_unix_ns(capture.finished_ns or capture.started_ns)
            _end(span, finished, capture.failure, capture.surfaced)
        finally:  # a sampler or processor that raises takes no point from the histogram
            attributes = _with_error(capture_series(capture), capture.failure)
            self._capture_duration.record(seconds(capture.duration_ns), attributes, context=context)

    def _emit_trigger(self, trigger: Trigger) -> None:
        try:
            if trigger.span is not None:
                trigger.span.set_attributes(trigger_end_attributes(trigger))
                finished = trigger.anchor.to_unix_ns(trigger.finished_ns or trigger.started_ns)
                _end(trigger.span, finished, trigger.failure, trigger.surfaced)
        finally:
            attributes = _with_error(trigger_series(trigger), trigger.failure)
            self._trigger_duration.record(seconds(trigger.duration_ns), attributes, context=trigger.context)
            # Trigger and captures refer to each other; engines that freeze the
            # garbage collector around captures would keep such a cycle for good.
            trigger.captures = []


def _observe_ledger(meter: Meter, ledger: Ledger) -> None:
    def always(counts: Counts, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, dict(series)) for series, value in counts().items()]

    def while_recording(counts: Counts, options: CallbackOptions) -> Iterable[Observation]:
        """What exists now is not known any more once nobody records; what was counted stays true."""
        return always(counts, options) if ledger.active else ()

    counter, up_down = meter.create_observable_counter, meter.create_observable_up_down_counter
    for create, name, unit, description, callback in (
        (
            counter,
            semconv.METRIC_CAPTURE_TRIGGERS,
            "{trigger}",
            "Attempts of a model runner to capture its graphs.",
            partial(always, ledger.triggers),
        ),
        (
            counter,
            semconv.METRIC_CAPTURES,
            "{graph}",
            "Graphs captured successfully.",
            partial(always, ledger.captures),
        ),
        (
            up_down,
            semconv.METRIC_CAPTURE_TRIGGER_ACTIVE,
            "{trigger}",
            "Capture triggers under way.",
            partial(while_recording, ledger.active_triggers),
        ),
        (
            up_down,
            semconv.METRIC_COUNT,
            "{graph}",
            "Graphs that exist.",
            partial(while_recording, ledger.live_graphs),
        ),
        (
            counter,
            semconv.METRIC_REPLAYS,
            "{replay}",
            "Replays of graphs.",
            partial(always, ledger.replays),
        ),
        (
            counter,
            semconv.METRIC_SKIPS,
            "{skip}",
            "Captures that an engine refused.",
            partial(always, ledger.skips),
        ),
    ):
        create(name, [callback], unit=unit, description=description)


def _end(span: Span, finished: int, *failures: Failure | None) -> None:
    """End a span; where it failed, with the root cause first, then what the host saw."""
    seen = [failure for failure in failures if failure is not None]
    for failure in seen:
        attributes = {
            semconv.EXCEPTION_TYPE: failure.type,
            semconv.EXCEPTION_MESSAGE: failure.message,
            semconv.EXCEPTION_STACKTRACE: failure.stacktrace,
        }
        span.add_event(semconv.EVENT_EXCEPTION, attributes, timestamp=finished)
    if seen:
        span.set_status(Status(StatusCode.ERROR, f"{seen[0].type}: {seen[0].message}"))
    span.end(finished)


def _with_error(series: Series, failure: Failure | None) -> Attributes:
    attributes = dict(series)
    if failure is not None:
        attributes[semconv.ERROR_TYPE] = failure.type
    return attributes


def flush_provider(provider: object, timeout_millis: int) -> bool:
    """Ask a provider to deliver what it holds; one of the API alone holds nothing."""
    flush = getattr(provider, "force_flush", None)
    return True if flush is None else bool(flush(timeout_millis))
