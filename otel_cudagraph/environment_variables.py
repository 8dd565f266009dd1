"""Environment variables of this instrumentation: names and meaning, nothing else.

``opentelemetry-instrument`` turns every attribute of this module that starts
with ``OTEL_`` into a command-line option, so nothing else may stand here.
"""

OTEL_PYTHON_CUDAGRAPH_REPLAYS = "OTEL_PYTHON_CUDAGRAPH_REPLAYS"
"""
.. envvar:: OTEL_PYTHON_CUDAGRAPH_REPLAYS

Whether ``replay()`` is counted (``cuda.graph.replays``). ``true`` by default;
with ``false`` the ``replay`` method is not patched at all.
"""

OTEL_PYTHON_CUDAGRAPH_MAX_PENDING = "OTEL_PYTHON_CUDAGRAPH_MAX_PENDING"
"""
.. envvar:: OTEL_PYTHON_CUDAGRAPH_MAX_PENDING

How many captured graphs may wait to become spans while the exporter is stuck,
65536 by default. What comes on top is dropped and said once in the log; the
counters stay exact.
"""
