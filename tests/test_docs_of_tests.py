"""docs/span-based-tests.md, carried out: its engine on the stand-in, its tests, and what a failure says."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from otel_cudagraph.testing import InProcessCaptures

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "span-based-tests.md").read_text("utf-8")
FILES = {name: text for text, name in re.findall(r"```python\n(# (\S+)\n.*?)```", PAGE, re.DOTALL)}
ON_THE_STAND_IN = {
    "import torch\n": (
        "import torch\nfrom otel_cudagraph import register_graph_family\nfrom runner import stand_in\n"
        "register_graph_family(stand_in.FAMILY)\n"
    ),
    "torch.cuda.CUDAGraph": "stand_in.StandInGraph",
    "torch.cuda.graph": "stand_in.graph",
    'device="cuda"': 'device="cpu"',
}
"""What of the engine must be another on a machine without a GPU."""


def on_the_stand_in(text: str) -> str:
    for there, here in ON_THE_STAND_IN.items():
        assert there in text
        text = text.replace(there, here)
    return text


@pytest.fixture
def files(pytester: pytest.Pytester, monkeypatch) -> Path:
    """The page's files, in a folder of their own."""
    for name, text in FILES.items():
        (pytester.path / name).write_text(on_the_stand_in(text) if name == "my_engine.py" else text, "utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(pytester.path)]))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return pytester.path


def run(pytester: pytest.Pytester, *names: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(
        "-p", "otel_cudagraph.pytest_plugin", "-p", "no:cacheprovider", *names
    )


def test_no_block_is_left_out() -> None:
    assert PAGE.count("```python") == len(FILES)
    assert {name for name in FILES if name.startswith("test_")} == {
        *("test_capture.py", "test_lost.py", "test_details.py", "test_server.py")
    }


def without_times(text: str) -> str:
    return re.sub(r" +[\d.]+ (µs|ms|s) \|.{24}\|", " ~", text)


def test_in_process(pytester: pytest.Pytester, files: Path) -> None:
    result = run(pytester, "test_capture.py", "test_details.py", "test_lost.py")

    result.assert_outcomes(passed=4, failed=1)
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    lines = [line.rstrip() for line in result.outlines]
    start = next(i for i, line in enumerate(lines) if line.startswith(">  ") and "expect" in line)
    end = lines.index("test_lost.py:8: AssertionError")
    assert without_times("\n".join(lines[start : end + 1])) == without_times(shown.rstrip())


def test_over_otlp(pytester: pytest.Pytester, files: Path, monkeypatch) -> None:
    """`opentelemetry-instrument` asks for a configurator, which opentelemetry-distro has: this one."""
    distro = files / "distro-1.dist-info"
    distro.mkdir()
    (distro / "METADATA").write_text("Metadata-Version: 2.1\nName: distro\nVersion: 1\n")
    (distro / "entry_points.txt").write_text(
        "[opentelemetry_configurator]\nconfigurator = opentelemetry.sdk._configuration:_OTelSDKConfigurator\n"
    )
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)

    run(pytester, "test_server.py").assert_outcomes(passed=1)


def test_without_pytest(files: Path) -> None:
    result = subprocess.run([sys.executable, "check_capture.py"], cwd=files, check=False)

    assert result.returncode == 0


def test_every_parameter_is_in_the_table() -> None:
    parameters = inspect.signature(InProcessCaptures.expect).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    table = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", PAGE, re.MULTILINE)

    assert {name: ast.literal_eval(default) for name, default in table} == defaults
