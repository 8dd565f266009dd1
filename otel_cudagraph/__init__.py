"""OpenTelemetry instrumentation of CUDA graph capture: a span per trigger, a span per graph."""

from otel_cudagraph.api import batch_descriptor, capture_trigger
from otel_cudagraph.config import Config
from otel_cudagraph.families import GraphFamily
from otel_cudagraph.installation import register_graph_family
from otel_cudagraph.instrumentor import CudaGraphInstrumentor
from otel_cudagraph.version import __version__

__all__ = [
    "Config",
    "CudaGraphInstrumentor",
    "GraphFamily",
    "__version__",
    "batch_descriptor",
    "capture_trigger",
    "register_graph_family",
]
