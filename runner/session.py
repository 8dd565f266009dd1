"""One run from its first line on the screen to its exit code."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from runner.config import CudaGraphMode
from runner.generation import generate
from runner.graph_runner import GraphMemoryError
from runner.model_runner import ModelRunner
from runner.platforms import cuda_unavailable_reason
from runner.report import arrival_mistake, show_deliveries, show_generation, show_received
from runner.telemetry import RunnerTelemetry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.arguments import Arguments
    from runner.config import RunConfig
    from runner.otlp_settings import OtlpSettings
    from runner.platforms import Platform

_MAX_REASON = 400
"""Characters of an error on the screen; the span has all of it."""


class ExitCode(IntEnum):
    """What the run ends with."""

    OK = 0
    FAILED = 1
    NOT_DELIVERED = 3


def run_session(arguments: Arguments, settings: OtlpSettings, platform: Platform) -> int:
    """Capture, decode, deliver, show; return the exit code."""
    console = Console(highlight=False)
    _introduce(console, arguments, platform)
    with RunnerTelemetry(settings) as telemetry:
        runner = None
        try:
            # Kept until all is delivered: its graphs are alive, and cuda.graph.count says so.
            runner = _work(console, arguments.config, platform)
        finally:  # what went wrong is in the telemetry: deliver it in any case
            telemetry.deliver()
            delivered = _show_telemetry(console, telemetry, arguments)
        if runner is None or not _arrived(console, telemetry, arguments.config, runner.num_graphs):
            return ExitCode.FAILED
    return ExitCode.OK if delivered else ExitCode.NOT_DELIVERED


def _introduce(console: Console, arguments: Arguments, platform: Platform) -> None:
    if platform.simulated:
        reason = "--device cpu" if arguments.device == "cpu" else cuda_unavailable_reason()
        console.print(
            f"[yellow]No CUDA graph was captured: this is a CPU stand-in ({reason}).[/yellow]\n"
            "It is labelled cuda.graph.simulated=true in all that follows.",
            soft_wrap=True,
        )
    config = arguments.config
    console.print(
        f"Device {platform.name}; mode {config.mode.value}; {config.model.num_layers} layer(s); "
        f"capture sizes {','.join(map(str, config.capture_sizes))}",
        soft_wrap=True,
    )


def _work(console: Console, config: RunConfig, platform: Platform) -> ModelRunner | None:
    """Capture and decode; return the runner with its graphs, None where something failed."""

    def progress(sizes: Iterable[int], description: str) -> Iterable[int]:
        return track(sizes, description, console=console, transient=True, disable=not console.is_terminal)

    try:
        runner = ModelRunner(config, platform)
        runner.capture_model(progress)
    except Exception as error:  # noqa: BLE001  whatever a driver raises; the span has the stack trace
        named = str(error) if isinstance(error, GraphMemoryError) else f"{type(error).__name__}: {error}"
        console.print(
            f"[red]Capture failed:[/red] {escape(' '.join(named.split())[:_MAX_REASON])}", soft_wrap=True
        )
        return None
    console.print(f"Captured {runner.num_graphs} {'stand-in ' if platform.simulated else ''}graphs")
    through_graphs = generate(runner.execute, config)
    eager = generate(lambda batch: runner.execute(batch, eager=True), config)
    return runner if show_generation(console, through_graphs, eager) else None


def _show_telemetry(console: Console, telemetry: RunnerTelemetry, arguments: Arguments) -> bool:
    """Show what arrived here, or say what was delivered elsewhere; return whether all was."""
    if telemetry.is_off:
        console.print(f"No telemetry is shown here: {telemetry.off_because}", soft_wrap=True)
        return True
    if telemetry.receiver is not None:
        show_received(console, telemetry.receiver.received)
        if arguments.otlp_json is not None:
            arguments.otlp_json.write_text(telemetry.receiver.received.to_json_lines(), "utf-8")
    console.print()
    return show_deliveries(console, telemetry.deliveries, telemetry.reason)


def _arrived(console: Console, telemetry: RunnerTelemetry, config: RunConfig, graphs: int) -> bool:
    """Check what the embedded receiver got against what the runner itself counted."""
    if telemetry.receiver is None:
        return True
    triggers = 0 if config.mode is CudaGraphMode.NONE else 1
    mistake = arrival_mistake(telemetry.receiver.received, triggers, graphs, telemetry.expected_signals)
    if mistake is not None:
        console.print(f"[red]What arrived is not what was done:[/red] {mistake}", soft_wrap=True)
    return mistake is None
