"""Writes docs/compatibility.md from what the contracts find: ``python -m tests.compat.table``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.compat import engines
from tests.compat.contracts import Engine
from tests.compat.sources import Index

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_cudagraph.adapters.hooks import Place

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
_BEGIN, _END = "<!-- written by python -m tests.compat.table -->", "<!-- end -->"
_NEWEST = re.compile(r"Newest when this was written: (.+)\.")
_TRIGGERS = ("trigger", "undecided trigger")


def newest_of(page: str) -> dict[str, str]:
    """Return the version of each engine that a page names as the newest."""
    (names,) = _NEWEST.findall(page)
    return dict(name.split(" ") for name in names.split(", "))


def render(index: Index, newest: dict[str, str]) -> str:
    """Return the page, its words as they are and its tables anew."""
    before, _, rest = PAGE.read_text("utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    named = ", ".join(f"{name} {version}" for name, version in newest.items())
    columns = {name: _columns(index, name, newest[name]) for name in engines.VERSIONS}
    lines = [
        f"Newest when this was written: {named}.",
        "",
        *_summary(columns),
        *(line for name in engines.VERSIONS for line in _details(name, columns[name])),
    ]
    return f"{before}{_BEGIN}\n{chr(10).join(lines)}\n{_END}{after}"


def _columns(index: Index, name: str, newest: str) -> list[Engine]:
    versions = [newest if each == engines.NEWEST else each for each in engines.VERSIONS[name]]
    return [Engine(index.published(name, version)) for version in versions]


def _summary(columns: dict[str, list[Engine]]) -> Iterator[str]:
    yield "| engine | version | a trigger is a call of | relied on, found |"
    yield "|---|---|---|---|"
    for name, versions in columns.items():
        for engine in versions:
            hooks = [hook for row in engines.rows(name) for hook in engine.hooks(row)]
            triggers = [_last(hook.place) for hook in hooks if engines.kind(hook) in _TRIGGERS]
            relied = [
                place
                for row in engines.rows(name)
                for place in engines.places(row)
                if place.belongs_to(engine.source.version)
            ]
            found = sum(engine.lacks(place) is None for place in relied)
            cells = [
                name,
                engine.source.version,
                "<br>".join(triggers) or "none",
                f"{found} of {len(relied)}",
            ]
            yield f"| {' | '.join(cells)} |"


def _details(name: str, versions: list[Engine]) -> Iterator[str]:
    yield from ("", f"## {name}", "")
    titles = [*("used as", "module", "name"), *(engine.source.version for engine in versions)]
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    for place, use in _uses(name).items():
        marks = ["yes" if engine.lacks(place) is None else "no" for engine in versions]
        module = place.module.removeprefix(f"{name}.")
        yield f"| {' | '.join([use, f'`{module}`', _named(place), *marks])} |"


def _uses(name: str) -> dict[Place, str]:
    """Return what is hooked and as what, then what is only read."""
    rows = engines.rows(name)
    hooked = {hook.place: engines.kind(hook) for row in rows for hook in engines.hooks(row)}
    read = {place: "read" for row in rows for place in engines.places(row)}
    return hooked | {place: use for place, use in read.items() if place not in hooked}


def _last(place: Place) -> str:
    return f"`{place.module.rpartition('.')[2]}.{place.name}`"


def _named(place: Place) -> str:
    names = [each for each in (*place.parameters, *place.variables) if each != "self"]
    return f"`{place.name}`" + (f" with {', '.join(f'`{each}`' for each in names)}" if names else "")


def main() -> None:
    """Write the page for today's newest versions."""
    with Index() as index:
        newest = {name: index.resolve(name, engines.NEWEST) for name in engines.VERSIONS}
        PAGE.write_text(render(index, newest), "utf-8")


if __name__ == "__main__":
    main()
