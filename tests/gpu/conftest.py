"""Checks on a real GPU: skipped elsewhere, with the reason. They need no network.

With ``OTEL_CUDAGRAPH_RECORD=DIR`` each check also writes what arrived over OTLP to
``DIR/<check>.jsonl``: the fixtures under ``tests/data`` are made so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline import Pipeline


def _no_gpu_because() -> str | None:
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported: {error}"
    if torch.cuda.is_available():
        return None
    from runner.platforms import cuda_unavailable_reason

    return cuda_unavailable_reason() or "torch sees no GPU"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    reason = _no_gpu_because() if ours else None
    for item in ours:
        item.add_marker(pytest.mark.gpu)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {reason}"))


@pytest.fixture
def record_dir() -> Path | None:
    """Where fixtures are to be written, None where they are not."""
    folder = os.environ.get("OTEL_CUDAGRAPH_RECORD")
    return Path(folder) if folder else None


@pytest.fixture
def pipeline(request: pytest.FixtureRequest, record_dir: Path | None) -> Iterator[Pipeline]:
    """Instrumented torch with an OTLP receiver; what arrived is recorded where asked."""
    with Pipeline() as running:
        yield running
    if record_dir is not None:
        (record_dir / f"{request.node.name}.jsonl").write_text(running.received.to_json_lines(), "utf-8")
