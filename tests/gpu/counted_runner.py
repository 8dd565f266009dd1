"""Runs the runner with a plain count of its own of the captures that ended well.

Usage: python tests/gpu/counted_runner.py COUNTS.json [runner's arguments]

The count is made by a wrapper round `torch.cuda.CUDAGraph.capture_end` that knows
nothing of the instrumentation, put in place before it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from runner.__main__ import main


def _count_ends(counts: dict[str, int]) -> None:
    stock = torch.cuda.CUDAGraph.capture_end

    def capture_end(graph: torch.cuda.CUDAGraph) -> None:
        stock(graph)
        counts["capture_end_returned"] += 1

    torch.cuda.CUDAGraph.capture_end = capture_end  # type: ignore[method-assign]


if __name__ == "__main__":
    counts = {"capture_end_returned": 0}
    _count_ends(counts)
    code = main(sys.argv[2:])
    Path(sys.argv[1]).write_text(
        json.dumps(
            {**counts, "exit_code": code, "gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
        )
    )
    sys.exit(code)
