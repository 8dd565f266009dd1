"""The OpenTelemetry instrumentor: what `opentelemetry-instrument` loads and users call."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from otel_cudagraph.config import Config

if TYPE_CHECKING:
    from collections.abc import Collection

    from otel_cudagraph.installation import Installation

_logger = logging.getLogger(__name__)


class CudaGraphInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # the base is untyped
    """Makes CUDA graph captures spans and metrics, in a process as it is.

    ``CudaGraphInstrumentor().instrument()`` does what ``opentelemetry-instrument``
    does. torch need not be imported yet, and is not imported by this.
    """

    # No __init__: the base is a singleton whose __init__ runs with every construction.
    _installation: Installation | None = None
    _arguments: dict[str, Any] | None = None

    @property
    def arguments(self) -> dict[str, Any] | None:
        """What `instrument` was given, with the resolved `config`; None where nothing is instrumented.

        ``instrument(**arguments)`` makes the same instrumentation again.
        """
        return None if self._installation is None else self._arguments

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the torch versions that are instrumented, nightlies and NGC builds included."""
        return ("torch >= 2.4.0.dev0",)

    def instrument(self, **kwargs: Any) -> None:
        """Patch torch's graph classes, at once or when torch is imported.

        A failure is logged and leaves nothing patched; it does not reach the host.

        Args:
            **kwargs: `tracer_provider` and `meter_provider` (the global ones by
                default), `config` (`Config.from_env()` by default), and
                `before_first_capture`, called once in each process that captures.
        """
        super().instrument(**kwargs)
        # The base believes in success; without an installation there was none.
        self._is_instrumented_by_opentelemetry = self._installation is not None

    @property
    def is_capturing(self) -> bool:
        """Whether a graph is being captured now, in any thread."""
        return self._installation is not None and self._installation.is_capturing

    def hand_over(self) -> None:
        """Make spans of everything recorded so far, on this thread; the SDK holds them then."""
        if self._installation is not None:
            self._installation.hand_over()

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        """Hand over everything recorded so far and ask the providers to deliver it.

        Returns:
            Whether they said that they did; True where nothing is instrumented.
        """
        return self._installation is None or self._installation.force_flush(timeout_millis)

    def _instrument(self, **kwargs: Any) -> None:
        # Not at import: wrapt and our parts cost time in processes that only list instrumentors.
        from otel_cudagraph.installation import Installation, activate  # noqa: PLC0415

        try:
            config = kwargs.get("config") or Config.from_env()
            installation = Installation(
                config,
                kwargs.get("tracer_provider"),
                kwargs.get("meter_provider"),
                kwargs.get("before_first_capture"),
            )
            activate(installation)
        except Exception:
            # opentelemetry-instrument would drop every instrumentor after us.
            _logger.exception("CUDA graphs are not instrumented; nothing was left patched")
            return
        self._installation = installation
        self._arguments = {**kwargs, "config": config}

    def _uninstrument(self, **_kwargs: Any) -> None:
        from otel_cudagraph.installation import deactivate  # noqa: PLC0415

        installation, self._installation = self._installation, None
        self._arguments = None
        if installation is not None:
            deactivate(installation)
