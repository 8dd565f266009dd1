"""The main job: capture, decode, and show or deliver the telemetry of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from runner.arguments import parse_arguments
from runner.otlp_settings import SettingsError, read_settings

if TYPE_CHECKING:
    from runner.arguments import Arguments
    from runner.otlp_settings import OtlpSettings

_BAD_ARGUMENTS = 2


def main(argv: list[str] | None = None) -> int:
    """Run one command line; return the exit code."""
    arguments = parse_arguments(argv)
    try:
        settings = read_settings()
    except SettingsError as error:
        return _refuse(str(error))
    return _run(arguments, settings)


def _run(arguments: Arguments, settings: OtlpSettings) -> int:
    # Not at the top: torch takes seconds, and bad arguments need none of it.
    from runner.platforms import DeviceUnavailableError, select_platform  # noqa: PLC0415

    try:
        platform = select_platform(arguments.device)
    except DeviceUnavailableError as error:
        return _refuse(f"--device {arguments.device}: {error}")
    from runner.session import run_session  # noqa: PLC0415

    return run_session(arguments, settings, platform)


def _refuse(message: str) -> int:
    sys.stderr.write(f"runner: {message}\n")
    return _BAD_ARGUMENTS


if __name__ == "__main__":
    sys.exit(main())
