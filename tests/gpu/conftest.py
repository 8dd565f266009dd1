"""Checks on a real GPU: skipped elsewhere, with the reason. They need no network.

With ``OTEL_CUDAGRAPH_RECORD=DIR`` each check also writes what arrived over OTLP to
``DIR/<check>.jsonl``: the fixtures under ``tests/data`` are made so.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_cudagraph.testing import Received
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


@pytest.fixture(scope="session")
def record_dir() -> Path | None:
    """Where fixtures are to be written, None where they are not; says there what machine made them."""
    folder = os.environ.get("OTEL_CUDAGRAPH_RECORD")
    if not folder:
        return None
    import torch

    machine = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": "OTEL_CUDAGRAPH_RECORD=FOLDER make gpu-test PYTHON=python3",
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "machine.json").write_text(json.dumps(machine, indent=1) + "\n")
    return Path(folder)


def without_paths(text: str) -> str:
    """Return stack traces' files relative to what they were imported from."""
    for entry in sorted({*sys.path, str(Path.cwd())}, key=len, reverse=True):
        if len(entry) > 1:
            text = text.replace(f"{entry}/", "")
    return text


@pytest.fixture
def pipeline(request: pytest.FixtureRequest, record_dir: Path | None) -> Iterator[Pipeline]:
    """Instrumented torch with an OTLP receiver; what arrived is recorded where asked."""
    with Pipeline() as running:
        yield running
    if record_dir is not None:
        # Cumulative metrics: the last export says all that the earlier ones said.
        last = Received(running.received.traces, running.received.metrics_data[-1:])
        name = re.sub(r"\W+", "_", request.node.name.removeprefix("test_")).strip("_")
        (record_dir / f"{name}.jsonl").write_text(without_paths(last.to_json_lines()), "utf-8")
