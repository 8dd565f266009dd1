"""Reads Python files of an engine's version: of an installed one, or out of a published wheel.

Wheels of engines are up to half a gigabyte; of a published one only the files that are
asked for are fetched, by HTTP range requests, and kept in a cache outside the checkout.
"""

from __future__ import annotations

import os
import zipfile
from contextlib import ExitStack
from functools import cache, cached_property
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import requests
from packaging.version import Version
from pypi_simple import PYPI_SIMPLE_ENDPOINT, PyPISimple
from remotezip import RemoteIOError, RemoteZip

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE_VARIABLE = "OTEL_CUDAGRAPH_SOURCES"
_FILES = "FILES"
_TIMEOUT_S = 60


class UnavailableError(Exception):
    """Source could not be had: says which, and why."""


class Source(Protocol):
    """The Python files of one version of a distribution."""

    distribution: str
    version: str

    def paths(self) -> Iterator[str]:
        """Return the paths of all Python files, relative to where packages lie."""

    def read(self, path: str) -> str | None:
        """Return a file's text, None where there is no such file."""


class InstalledSource:
    """An engine in this environment."""

    def __init__(self, distribution: str, package: str) -> None:
        self.distribution, self.version = distribution, installed_version(distribution)
        self._package = package

    def paths(self) -> Iterator[str]:
        return (str(path.relative_to(self._folder)) for path in (self._folder / self._package).rglob("*.py"))

    def read(self, path: str) -> str | None:
        file = self._folder / path
        return file.read_text("utf-8") if file.is_file() else None

    @cached_property
    def _folder(self) -> Path:
        # Finds a top-level package without importing it.
        return Path(find_spec(self._package).submodule_search_locations[0]).parent


class PublishedSource:
    """An engine in the package index."""

    def __init__(self, distribution: str, version: str, index: Index) -> None:
        self.distribution, self.version = distribution, version
        self._index = index
        self._folder = cache_folder() / f"{distribution}-{version}"

    def paths(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def read(self, path: str) -> str | None:
        if path not in self._names:
            return None
        kept = self._folder / path
        if not kept.is_file():
            _keep(kept, self._fetch(path))
        return kept.read_text("utf-8")

    @cached_property
    def _names(self) -> frozenset[str]:
        kept = self._folder / _FILES
        if not kept.is_file():
            _keep(kept, "\n".join(name for name in self._wheel.namelist() if name.endswith(".py")).encode())
        return frozenset(kept.read_text("utf-8").split("\n"))

    @cached_property
    def _wheel(self) -> zipfile.ZipFile:
        return self._index.open_wheel(self.distribution, self.version)

    def _fetch(self, path: str) -> bytes:
        try:
            return self._wheel.read(path)
        except (RemoteIOError, requests.RequestException, zipfile.BadZipFile) as error:
            raise UnavailableError(f"{path} of {self.distribution} {self.version}: {error}") from error


class Release(NamedTuple):
    """A version that can be read: it publishes a wheel."""

    version: Version
    url: str


class Index:
    """The package index: pip's, where the environment names one."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self.releases = cache(self._releases)
        self.published = cache(self._published)

    def __enter__(self):
        self._session = self._open.enter_context(requests.Session())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    def resolve(self, distribution: str, wanted: str) -> str:
        """Return the version that is wanted.

        Args:
            distribution: Its name.
            wanted: A version; ``newest``; or ``<5.5``, ``>=5.5``: the release next to that.
        """
        if wanted[0].isdigit():
            return wanted
        released = [release.version for release in self.releases(distribution)]
        if wanted == "newest":
            return str(released[-1])
        bound = Version(wanted.lstrip("<>="))
        if wanted[0] == "<":
            return str(max(each for each in released if each < bound))
        return str(min(each for each in released if each >= bound))

    def _published(self, distribution: str, version: str) -> PublishedSource:
        return PublishedSource(distribution, version, self)

    def open_wheel(self, distribution: str, version: str) -> zipfile.ZipFile:
        """Open the wheel of a version where it lies."""
        url = next(
            (each.url for each in self.releases(distribution) if each.version == Version(version)), None
        )
        if url is None:
            raise UnavailableError(f"{distribution} {version} publishes no wheel")
        try:
            return self._open.enter_context(RemoteZip(url, session=self._session, timeout=_TIMEOUT_S))
        except (RemoteIOError, requests.RequestException, zipfile.BadZipFile) as error:
            raise UnavailableError(f"the wheel of {distribution} {version}: {error}") from error

    def _releases(self, distribution: str) -> list[Release]:
        smallest: dict[Version, Any] = {}
        for package in self._packages(distribution):
            version = Version(package.version)
            if version not in smallest or (package.size or 0) < (smallest[version].size or 0):
                smallest[version] = package
        return [Release(version, smallest[version].url) for version in sorted(smallest)]

    def _packages(self, distribution: str) -> list[Any]:
        endpoint = os.environ.get("PIP_INDEX_URL", PYPI_SIMPLE_ENDPOINT)
        try:
            page = PyPISimple(endpoint, session=self._session).get_project_page(
                distribution, timeout=_TIMEOUT_S
            )
        except requests.RequestException as error:
            raise UnavailableError(f"the releases of {distribution}: {error}") from error
        return [
            package
            for package in page.packages
            if package.package_type == "wheel"
            and not package.is_yanked
            and not Version(package.version).is_prerelease
        ]


def cache_folder() -> Path:
    """Return where files are kept that were fetched once; nothing needs them to be there."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "otel-cudagraph" / "sources"


def _keep(path: Path, content: bytes) -> None:
    """Write a file at once: another run may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)
