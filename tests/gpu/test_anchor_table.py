"""The runner's modes on a real GPU: the counts that arrived, and an independent count."""

import json
import subprocess
import sys
from pathlib import Path

from otel_cudagraph.testing import Received
from tests.anchor_table import ANCHOR_TABLE
from tests.pipeline import CAPTURE, TRIGGER

ROOT = Path(__file__).parents[2]


@ANCHOR_TABLE
def test_twelve_layers_and_one_size(
    mode: str, triggers: int, graphs: int, tmp_path: Path, record_dir: Path | None
) -> None:
    folder = record_dir or tmp_path
    counts, arrived = folder / f"anchor_{mode}.json", folder / f"anchor_{mode}.jsonl"
    command = [sys.executable, "tests/gpu/counted_runner.py", str(counts), "--device", "cuda"]
    command += [
        "--num-layers",
        "12",
        "--capture-sizes",
        "1",
        "--cudagraph-mode",
        mode,
        "--otlp-json",
        str(arrived),
    ]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    assert "the same tokens" in run.stdout
    received = Received.from_file(arrived)
    assert len(received.spans(TRIGGER)) == triggers
    assert len(received.spans(CAPTURE)) == graphs
    assert json.loads(counts.read_text())["capture_end_returned"] == graphs


def test_padded_batches_of_several_sizes_give_the_same_tokens() -> None:
    command = [
        sys.executable,
        "-m",
        "runner",
        "--device",
        "cuda",
        "--model",
        "small",
        "--capture-sizes",
        "1,2,4,8,16",
    ]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    assert "the same tokens" in run.stdout


def test_out_of_memory_in_a_capture_is_told(tmp_path: Path) -> None:
    """A size whose batch needs more memory than any GPU has: exit 1, the size and what to lower are named."""
    command = [sys.executable, "-m", "runner", "--device", "cuda", "--model", "medium", "--num-layers", "2"]
    command += ["--decode-steps", "1000", "--capture-sizes", "1,40000"]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    assert run.returncode == 1, run.stdout + run.stderr
    assert "of size 40000" in run.stdout
    assert "lower --capture-sizes" in run.stdout
    assert "Traceback" not in run.stderr
