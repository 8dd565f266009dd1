"""What twelve layers and one capture size give, on any device."""

import pytest

ANCHOR_TABLE = pytest.mark.parametrize(
    ("mode", "triggers", "graphs"),
    [
        ("NONE", 0, 0),
        ("PIECEWISE", 1, 13),
        ("FULL", 1, 1),
        ("FULL_DECODE_ONLY", 1, 1),
        ("FULL_AND_PIECEWISE", 1, 14),
    ],
)
