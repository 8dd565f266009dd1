"""Where telemetry goes, read from the standard ``OTEL_*`` variables and checked before any work.

The SDK's exporters read the same variables again; here they are only understood
well enough to choose the exporters and to refuse what cannot work.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

PROTOCOLS = ("grpc", "http/protobuf")
SIGNALS = ("traces", "metrics")
_DEFAULT_TIMEOUT_S = 3.0
"""Of one export; short, so that a run beside a dead endpoint ends soon (the SDK's own default is 10 s)."""

_MAX_TIMEOUT_S = 3600.0


class SettingsError(ValueError):
    """A variable has a value that cannot work; the message names both."""


@dataclass(frozen=True)
class Target:
    """Where one signal goes."""

    signal: str
    """``traces`` or ``metrics``."""
    protocol: str
    endpoint: str | None
    """None: the embedded receiver."""
    timeout_s: float


@dataclass(frozen=True)
class OtlpSettings:
    """What the environment asks for."""

    targets: tuple[Target, ...]
    is_disabled: bool
    """``OTEL_SDK_DISABLED``: there is no telemetry at all."""

    @property
    def uses_receiver(self) -> bool:
        """Whether nothing names an endpoint, so that the run shows its telemetry itself."""
        return not self.is_off and all(target.endpoint is None for target in self.targets)

    @property
    def is_off(self) -> bool:
        """Whether nothing is to be exported at all."""
        return self.is_disabled or not self.targets


def read_settings(environ: Mapping[str, str] = os.environ) -> OtlpSettings:
    """Return where each signal goes. A signal without an endpoint goes nowhere where the other has one.

    Raises:
        SettingsError: A protocol is unknown, an endpoint is no URL, a timeout no number, a
            certificate no file.
    """
    _check_certificates(environ)
    wanted = [signal for signal in SIGNALS if _is_wanted(environ, signal)]
    targets = [_target(environ, signal) for signal in wanted]
    if any(target.endpoint is not None for target in targets):
        targets = [target for target in targets if target.endpoint is not None]
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return OtlpSettings(tuple(targets), disabled)


def _is_wanted(environ: Mapping[str, str], signal: str) -> bool:
    name, exporter = _lookup(environ, f"OTEL_{signal.upper()}_EXPORTER")
    if exporter not in (None, "otlp", "none"):
        raise SettingsError(f"{name}={exporter!r} is not supported; use otlp or none")
    return exporter != "none"


def _target(environ: Mapping[str, str], signal: str) -> Target:
    name, protocol = _signal_lookup(environ, signal, "PROTOCOL")
    if protocol not in (None, *PROTOCOLS):
        raise SettingsError(f"{name}={protocol!r} is not supported; use {' or '.join(PROTOCOLS)}")
    name, endpoint = _signal_lookup(environ, signal, "ENDPOINT")
    if endpoint is not None:
        _check_endpoint(name, endpoint)
    return Target(signal, protocol or PROTOCOLS[0], endpoint, _timeout_s(environ, signal))


def _timeout_s(environ: Mapping[str, str], signal: str) -> float:
    name, raw = _signal_lookup(environ, signal, "TIMEOUT")
    if raw is None:
        return _DEFAULT_TIMEOUT_S
    try:
        timeout_s = float(raw)
    except ValueError:
        timeout_s = 0.0
    if not 0 < timeout_s <= _MAX_TIMEOUT_S:
        raise SettingsError(f"{name}={raw!r} is not a number of seconds from 0 to {_MAX_TIMEOUT_S:.0f}")
    return timeout_s


def _check_endpoint(name: str, endpoint: str) -> None:
    accepted = "use a URL with scheme, host and port, such as http://localhost:4317"
    try:
        url = urlsplit(endpoint)
        well_formed = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        well_formed = False
    if not well_formed or any(character.isspace() for character in endpoint):
        raise SettingsError(f"{name}={endpoint!r} is not an endpoint; {accepted}")


def _check_certificates(environ: Mapping[str, str]) -> None:
    for kind in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"):
        for signal in SIGNALS:
            name, path = _signal_lookup(environ, signal, kind)
            if path is not None and not Path(path).is_file():
                raise SettingsError(f"{name}={path!r} is not a file; give the path of a PEM file")


def _signal_lookup(environ: Mapping[str, str], signal: str, setting: str) -> tuple[str, str | None]:
    """Return the variable that counts for a signal, and its value: its own before the general one."""
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{setting}"
    name, value = _lookup(environ, own)
    return (name, value) if value is not None else _lookup(environ, f"OTEL_EXPORTER_OTLP_{setting}")


def _lookup(environ: Mapping[str, str], name: str) -> tuple[str, str | None]:
    return name, environ.get(name, "").strip() or None
