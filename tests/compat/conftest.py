"""Fixtures: the package index, asked once per run; an engine in one of its versions."""

from __future__ import annotations

import pytest

from tests.compat.contracts import Engine
from tests.compat.sources import Index


@pytest.fixture(scope="session")
def index():
    with Index() as opened:
        yield opened


@pytest.fixture(scope="session")
def published(index):
    """Return an engine by its distribution and ``0.25.1``, ``newest``, ``<0.12`` or ``>=0.12``."""
    engines: dict[tuple[str, str], Engine] = {}

    def get(distribution: str, wanted: str) -> Engine:
        version = index.resolve(distribution, wanted)
        if (distribution, version) not in engines:
            engines[distribution, version] = Engine(index.published(distribution, version))
        return engines[distribution, version]

    return get
