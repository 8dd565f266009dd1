"""A process that loads vLLM's plugin and captures, torch-free.

Usage: python -m tests.plugin_worker ACTION…, each one of:
  plugin     load the plugin as vLLM does
  provider   set up a tracer provider of one's own, exporting to OWN_ENDPOINT
  reader     set up a meter provider of one's own, whose reader counts how often it is read
  report_reads   print that number
  await      wait for a line on standard input
  capture    one trigger with two graphs
  lazy, same   one graph outside a trigger, under a key of this process, under one that all have
  fork, spawn   do the rest in a child of multiprocessing
  osfork     do the rest in a bare fork
  hang       say so on standard output, and wait to be killed
  report     print which of the SDK's modules are loaded
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from importlib.metadata import entry_points

from otel_cudagraph import batch_descriptor, capture_trigger, register_graph_family
from tests import plain_graphs

graphs = []


def graph(key: str) -> None:
    one = plain_graphs.PlainGraph()
    with batch_descriptor(key), plain_graphs.capture(one):
        pass
    one.replay()
    graphs.append(one)


def load_plugin() -> None:
    (plugin,) = entry_points(group="vllm.general_plugins", name="otel_cudagraph")
    register_graph_family(plain_graphs.FAMILY)
    plugin.load()()


def set_up_provider() -> None:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(os.environ["OWN_ENDPOINT"])))
    trace.set_tracer_provider(provider)


class CountingReader:
    """Made late: the SDK must not be imported where nobody asks for it."""

    reads = 0


def set_up_reader() -> None:
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    class Reader(InMemoryMetricReader):
        def collect(self, timeout_millis: float = 10_000) -> None:
            CountingReader.reads += 1
            super().collect(timeout_millis)

    metrics.set_meter_provider(MeterProvider([Reader()], shutdown_on_exit=False))


def report_reads() -> None:
    print(f"read {CountingReader.reads} times", flush=True)


def capture() -> None:
    with capture_trigger(engine="toy", runtime_mode="FULL"):
        graph(f"{os.getpid()} first")
        graph(f"{os.getpid()} second")


def hang() -> None:
    print("captured", flush=True)
    signal.pause()


def report() -> None:
    print(sorted(name for name in sys.modules if name.startswith("opentelemetry.sdk.")), flush=True)


ACTIONS = {
    "plugin": load_plugin,
    "provider": set_up_provider,
    "reader": set_up_reader,
    "report_reads": report_reads,
    "await": sys.stdin.readline,
    "capture": capture,
    "same": lambda: graph("same key"),
    "lazy": lambda: graph(f"{os.getpid()} lazy"),
    "hang": hang,
    "report": report,
}


def act(actions: list[str]) -> None:
    for number, action in enumerate(actions):
        rest = actions[number + 1 :]
        if action in {"fork", "spawn"}:
            child = multiprocessing.get_context(action).Process(target=act, args=(rest,))
            child.start()
            child.join()
            sys.exit(child.exitcode)
        elif action == "osfork":
            if pid := os.fork():
                sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        else:
            ACTIONS[action]()


if __name__ == "__main__":
    act(sys.argv[1:])
