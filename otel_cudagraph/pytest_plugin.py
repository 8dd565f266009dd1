"""The pytest fixtures. Imports nothing of OpenTelemetry's SDK, gRPC or torch before one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from otel_cudagraph.testing import InProcessCaptures, OtlpCaptures


@pytest.fixture
def cudagraphs() -> Iterator[InProcessCaptures]:
    """CUDA graph captures that this process makes during the test; use ``cudagraphs.expect()``."""
    with _testing("cudagraphs").InProcessCaptures() as captures:
        yield captures


@pytest.fixture
def cudagraphs_otlp(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpCaptures]:
    """CUDA graph captures that processes started by the test make; use ``cudagraphs_otlp.expect()``.

    The environment makes them export to this test; it is put back afterwards.
    """
    with _testing("cudagraphs_otlp").OtlpCaptures() as captures:
        for name, value in captures.variables.items():
            if value is None:
                monkeypatch.delenv(name)
            else:
                monkeypatch.setenv(name, value)
        yield captures


def _testing(fixture: str) -> ModuleType:
    """Import what the fixtures are made of, which needs more than the library does."""
    try:
        from otel_cudagraph import testing  # noqa: PLC0415
    except ModuleNotFoundError as error:
        missing = error.name
    else:
        return testing
    # Not in the handler, whose exception pytest would show as well.
    pytest.fail(
        f"the fixture {fixture} needs more than is installed (no module {missing}): "
        "pip install 'otel-cudagraph[testing]'",
        pytrace=False,
    )
