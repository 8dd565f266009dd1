"""The toy engine in a process of its own: the SDK as ``OTEL_*`` says, as with ``opentelemetry-instrument``.

Reads lines of Python from its standard input, and says ``done`` after each.
"""

from __future__ import annotations

import sys

from opentelemetry.sdk._configuration import _OTelSDKConfigurator

from otel_cudagraph import CudaGraphInstrumentor

_OTelSDKConfigurator().configure(auto_instrumentation_version="0")
CudaGraphInstrumentor().instrument()

from otel_cudagraph import capture_trigger  # noqa: E402, F401  for the lines
from tests.toy_engine import capture_model, capture_one  # noqa: E402, F401

for line in sys.stdin:
    exec(line)
    sys.stdout.write("done\n")
    sys.stdout.flush()
