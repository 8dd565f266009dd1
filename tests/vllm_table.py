"""What the real vLLM 0.25.1 captures with 4 layers and the sizes 1, 2, 4, 8.

Counts: triggers, serving graphs, profiling graphs.
"""

import pytest

VLLM_TABLE = pytest.mark.parametrize(
    ("version", "mode", "counts"),
    [
        ("v1", "NONE", (0, 0, 0)),
        ("v1", "FULL_DECODE_ONLY", (1, 4, 2)),
        ("v1", "PIECEWISE", (1, 20, 10)),
        ("v1", "FULL_AND_PIECEWISE", (1, 24, 12)),
        ("v2", "NONE", (0, 0, 0)),
        ("v2", "FULL_DECODE_ONLY", (1, 4, 0)),
        ("v2", "PIECEWISE", (1, 20, 0)),
        ("v2", "FULL_AND_PIECEWISE", (1, 24, 0)),
    ],
)
