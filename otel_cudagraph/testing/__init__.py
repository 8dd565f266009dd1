"""For tests of captures: an OTLP receiver, what it received, and a waterfall of it.

Needs the extra ``testing``: ``pip install 'otel-cudagraph[testing]'``.
"""

from otel_cudagraph.testing.received import Event, Metric, Point, Received, Span
from otel_cudagraph.testing.receiver import OtlpReceiver
from otel_cudagraph.testing.waterfall import Line, format_duration, waterfall

__all__ = [
    "Event",
    "Line",
    "Metric",
    "OtlpReceiver",
    "Point",
    "Received",
    "Span",
    "format_duration",
    "waterfall",
]
