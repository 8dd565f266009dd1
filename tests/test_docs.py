"""What README and docs claim, held against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from otel_cudagraph import environment_variables, semconv

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs" / "reference.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "tests" / "data").glob("*.md")])
NAMES = sorted(
    value
    for name, value in vars(semconv).items()
    if isinstance(value, str) and name.isupper() and value.startswith(("cuda.", "hw.", "code.", "error."))
)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_in_the_reference(name: str) -> None:
    assert f"`{name}`" in REFERENCE


@pytest.mark.parametrize("name", re.findall(r"`((?:cuda|hw|code|error)\.[a-z_.]+)`", REFERENCE + README))
def test_every_name_in_the_docs_exists(name: str) -> None:
    assert name in NAMES


def test_every_variable_is_in_the_reference() -> None:
    ours = {name for name in vars(environment_variables) if name.startswith("OTEL_")}

    assert ours == set(re.findall(r"OTEL_PYTHON_CUDAGRAPH_[A-Z_]+", REFERENCE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text("utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]

    assert missing == []


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for page in PAGES
        for name in re.findall(r"(?:^|`)(?:\S+=\S+ )?make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)
    }

    assert named
    assert named <= targets


def test_the_changelog_has_a_section_to_write_into() -> None:
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text("utf-8")
