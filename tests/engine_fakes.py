"""Engines' call structures on the CPU stand-in, importable under the engines' real names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    import pytest

FAKES = Path(__file__).parent / "engines"


def install_fake(
    name: str, version: str, monkeypatch: pytest.MonkeyPatch, folder: Path, fakes: Path = FAKES
) -> Iterator[None]:
    """Make the fake of an engine importable, with a version, for as long as the generator is open.

    It hides the real engine where that is installed, even imported.
    """
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.syspath_prepend(fakes)
    real = _forget(name)
    yield
    _forget(name)
    sys.modules.update(real)


def _forget(name: str) -> dict[str, ModuleType]:
    modules = [module for module in sys.modules if module.partition(".")[0] == name]
    return {module: sys.modules.pop(module) for module in modules}
