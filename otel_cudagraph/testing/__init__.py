"""For tests of captures: what was captured, in this process or another, and `expect` to check it.

Needs the extra ``testing``: ``pip install 'otel-cudagraph[testing]'``.
"""

from otel_cudagraph.testing.block import Captured
from otel_cudagraph.testing.captured import CapturedGraph, CaptureTrigger
from otel_cudagraph.testing.in_process import InProcessCaptures
from otel_cudagraph.testing.over_otlp import OtlpCaptures
from otel_cudagraph.testing.received import Event, Metric, Point, Received, Span
from otel_cudagraph.testing.receiver import OtlpReceiver
from otel_cudagraph.testing.waterfall import Line, format_duration, waterfall

__all__ = [
    "CaptureTrigger",
    "Captured",
    "CapturedGraph",
    "Event",
    "InProcessCaptures",
    "Line",
    "Metric",
    "OtlpCaptures",
    "OtlpReceiver",
    "Point",
    "Received",
    "Span",
    "format_duration",
    "waterfall",
]
