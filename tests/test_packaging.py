"""What other people install: the library alone, typed, without the runner."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import otel_cudagraph

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_the_library_alone(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}

    assert top == {"otel_cudagraph", f"otel_cudagraph-{otel_cudagraph.__version__}.dist-info"}
    assert "otel_cudagraph/py.typed" in wheel.namelist()
    assert "otel_cudagraph/testing/receiver.py" in wheel.namelist()


def test_its_requirements(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("METADATA")]
    metadata = message_from_string(wheel.read(name).decode())
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]

    assert sorted(line.split(">")[0].strip() for line in required) == [
        "opentelemetry-api",
        "opentelemetry-instrumentation",
        "packaging",
        "wrapt",
    ]
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"


def test_it_runs_from_the_wheel_alone(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Unpacked in an empty folder, with the OpenTelemetry API beside it and nothing of the checkout."""
    wheel.extractall(tmp_path)
    code = "import otel_cudagraph as o; print(o.__file__); o.CudaGraphInstrumentor().instrument()"
    run = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(tmp_path))
