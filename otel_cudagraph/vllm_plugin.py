"""The plugin that vLLM loads in its API server, its engine core and every worker.

Entry point group ``vllm.general_plugins``, name ``otel_cudagraph``: ``VLLM_PLUGINS``
chooses among plugins, and without it vLLM loads all.
"""

from __future__ import annotations

from otel_cudagraph._guard import guarded
from otel_cudagraph.config import is_disabled
from otel_cudagraph.instrumentor import CudaGraphInstrumentor
from otel_cudagraph.sdk_setup import set_up_sdk


@guarded
def register() -> None:
    """Instrument this process; vLLM may call it more than once, and goes on whatever happens here.

    The SDK is set up before the first capture, not now: vLLM may set up tracing of
    its own after it has loaded its plugins (``--otlp-traces-endpoint``), and the API
    server captures nothing.
    """
    instrumentor = CudaGraphInstrumentor()
    if not is_disabled() and not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument(before_first_capture=set_up_sdk)
