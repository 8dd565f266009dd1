"""The main job: capture, decode, and show or deliver the telemetry of it."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from runner.arguments import parse_arguments
from runner.otlp_settings import SettingsError, read_settings

if TYPE_CHECKING:
    from runner.arguments import Arguments
    from runner.otlp_settings import OtlpSettings

_BAD_ARGUMENTS = 2
_INTERRUPTED = 130
"""As shells have it: 128 and the number of the signal."""


def main(argv: list[str] | None = None) -> int:
    """Run one command line; return the exit code."""
    # What goes wrong on the wire is said in one line of ours, not in gRPC's own log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a stdout that knows no bars shows them as "?"
        sys.stdout.reconfigure(errors="replace")
    arguments = parse_arguments(argv)
    try:
        settings = read_settings()
    except SettingsError as error:
        return _refuse(str(error))
    if arguments.otlp_json is not None and not settings.uses_receiver:
        return _refuse(
            f"--otlp-json {arguments.otlp_json}: it writes what the embedded receiver got, which the "
            "environment leaves out: unset OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SDK_DISABLED, OTEL_*_EXPORTER"
        )
    return _run(arguments, settings)


def _run(arguments: Arguments, settings: OtlpSettings) -> int:
    # Not at the top: torch takes seconds, and bad arguments need none of it.
    from runner.platforms import DeviceUnavailableError, select_platform  # noqa: PLC0415

    try:
        platform = select_platform(arguments.device)
    except DeviceUnavailableError as error:
        return _refuse(f"--device {arguments.device}: {error}")
    from runner.session import run_session  # noqa: PLC0415

    try:
        return run_session(arguments, settings, platform)
    except SettingsError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        sys.stderr.write("runner: interrupted\n")
        return _INTERRUPTED


def _refuse(message: str) -> int:
    sys.stderr.write(f"runner: {message}\n")
    return _BAD_ARGUMENTS


if __name__ == "__main__":
    sys.exit(main())
