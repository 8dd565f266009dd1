"""Looks for what adapters rely on in an engine's source, by its syntax tree; imports nothing of it."""

from __future__ import annotations

import ast
import difflib
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from tests.compat import engines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_cudagraph.adapters import AdapterRow
    from otel_cudagraph.adapters.hooks import Hook, Place
    from tests.compat.sources import Source

Function = ast.FunctionDef | ast.AsyncFunctionDef
_OTHER_SCOPES = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)


class Found(NamedTuple):
    """A definition, and the module whose names it uses."""

    module: str
    node: ast.AST


class Engine:
    """One version of an engine, parsed as far as it is asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.module = cache(self._module)

    def __str__(self) -> str:
        return f"{self.source.distribution} {self.source.version}"

    def lacks(self, place: Place) -> str | None:
        """Return what there is not of `place`, with similar names that there are; None: all is there."""
        if self.module(place.module) is None:
            modules = [path.removesuffix(".py").replace("/", ".") for path in self.source.paths()]
            return self._lack(f"module {place.module}", place.module, modules)
        scope: Found | None = Found(place.module, self.module(place.module))
        path = place.module
        for name in place.name.split("."):
            around, scope = scope, self.member(scope, name)
            if scope is None:
                return self._lack(f"{name} in {path}", name, self.members(around))
            path = f"{path}.{name}"
        return self._lacks_locals(place, scope.node)

    def _lacks_locals(self, place: Place, node: ast.AST) -> str | None:
        wanted = {"parameter": place.parameters, "local variable": place.variables}
        there = {"parameter": parameters(node), "local variable": [*parameters(node), *names_bound(node)]}
        for kind, names in wanted.items():
            for name in names:
                if name not in there[kind]:
                    return self._lack(f"{kind} {name} of {place}", name, there[kind])
        return None

    def _lack(self, what: str, name: str, there: list[str]) -> str:
        similar = difflib.get_close_matches(name, there, n=3)
        return f"{self} has no {what}; similar: {', '.join(similar) or 'nothing'}"

    def hooks(self, row: AdapterRow) -> list[Hook]:
        """Return what an adapter hooks in this version."""
        return [hook for hook in engines.hooks(row) if hook.place.belongs_to(self.source.version)]

    def lacking(self, row: AdapterRow) -> list[str]:
        """Return what an adapter relies on in this version and does not find."""
        belonging = [place for place in engines.places(row) if place.belongs_to(self.source.version)]
        return [lack for place in belonging if (lack := self.lacks(place)) is not None]

    def surplus(self, row: AdapterRow) -> list[str]:
        """Return what is there and should not be, by what an adapter says of this version."""
        foreign = [place for place in engines.places(row) if not place.belongs_to(self.source.version)]
        return [
            f"{self} has {place}: since={place.since}, before={place.before} say that it has not"
            for place in foreign
            if self.lacks(place) is None
        ]

    def empty_holders(self, row: AdapterRow) -> list[str]:
        """Return the modules, of those that there are, that are to hold a hooked function and do not."""
        return [
            f"{holder} of {self} does not hold {hook.place}"
            for hook in self.hooks(row)
            for holder in hook.holders
            if self.module(holder) is not None
            and self.find(holder, hook.place.name) != self.find(hook.place.module, hook.place.name)
        ]

    def holders(self, place: Place) -> list[str]:
        """Return all modules that hold a function of another one under its name; reads every file."""
        if "." in place.name:
            return []
        there = self.find(place.module, place.name)
        modules = (
            path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            for path in self.source.paths()
            if place.name in self.source.read(path)
        )
        return sorted(
            name for name in modules if name != place.module and self.find(name, place.name) == there
        )

    def find(self, module: str, name: str) -> Found | None:
        """Return what a module has under a qualified name, wherever it is defined."""
        tree = self.module(module)
        found = None if tree is None else Found(module, tree)
        for part in name.split("."):
            found = None if found is None else self.member(found, part)
        return found

    def member(self, scope: Found, name: str) -> Found | None:
        """Return what `name` is in a module, a class (inherited, too) or a function."""
        # The last definition is the one that counts: the first ones may be overloads.
        node = next((node for node in [*_bindings(scope.node, name)][::-1]), None)
        if isinstance(node, ast.ImportFrom):
            return self._imported(scope.module, node, name)
        if node is not None:
            return Found(scope.module, node)
        if isinstance(scope.node, ast.ClassDef):
            return next(filter(None, (self.member(base, name) for base in self._bases(scope))), None)
        return self._from_star(scope, name) if isinstance(scope.node, ast.Module) else None

    def members(self, scope: Found) -> list[str]:
        """Return the names that a scope has."""
        inherited = self._bases(scope) if isinstance(scope.node, ast.ClassDef) else ()
        return [*names_bound(scope.node), *(name for base in inherited for name in self.members(base))]

    def _bases(self, scope: Found) -> Iterator[Found]:
        for base in scope.node.bases:
            # Generic[T] and the like: what is subscripted.
            name = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
            found = self.find(scope.module, name)
            if found is not None and isinstance(found.node, ast.ClassDef):
                yield found

    def _imported(self, module: str, node: ast.ImportFrom, name: str) -> Found | None:
        origin = self._origin(module, node)
        original = next(alias.name for alias in node.names if name in (alias.asname, alias.name))
        found = self.find(origin, original)
        if found is None and (tree := self.module(f"{origin}.{original}")) is not None:
            return Found(f"{origin}.{original}", tree)
        return found

    def _from_star(self, scope: Found, name: str) -> Found | None:
        stars = [
            node for node in own(scope.node) if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
        ]
        origins = [self._origin(scope.module, node) for node in stars]
        return next(filter(None, (self.find(origin, name) for origin in origins)), None)

    def _origin(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module
        parts = module.split(".")
        package = parts if self._is_package(module) else parts[:-1]
        return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])

    def _is_package(self, module: str) -> bool:
        return self.source.read(f"{module.replace('.', '/')}/__init__.py") is not None

    def _module(self, name: str) -> ast.Module | None:
        path = name.replace(".", "/")
        text = self.source.read(f"{path}.py")
        text = self.source.read(f"{path}/__init__.py") if text is None else text
        return None if text is None else ast.parse(text)


def own(scope: ast.AST) -> Iterator[ast.AST]:
    """Return the nodes of a scope; functions, classes and comprehensions in it are seen, not entered."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, _OTHER_SCOPES):
            yield from own(child)


def parameters(node: ast.AST) -> list[str]:
    """Return the names of a function's parameters, none of what is no function."""
    if not isinstance(node, Function):
        return []
    arguments = node.args
    several = [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *several)]


def names_bound(scope: ast.AST) -> list[str]:
    """Return the names that a module, a class or a function gives a meaning."""
    return list(dict.fromkeys(name for name, _ in _bound(scope)))


def _bindings(scope: ast.AST, wanted: str) -> Iterator[ast.AST]:
    return (node for name, node in _bound(scope) if name == wanted)


def _bound(scope: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for node in own(scope):
        if isinstance(node, Function | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
    if isinstance(scope, ast.ClassDef):
        yield from _attributes(scope)


def _attributes(scope: ast.ClassDef) -> Iterator[tuple[str, ast.AST]]:
    """Return what a class's methods set on themselves."""
    for method in own(scope):
        if isinstance(method, Function) and (first := parameters(method)[:1]):
            for node in ast.walk(method):
                if (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.ctx, ast.Store)
                    and ast.unparse(node.value) == first[0]
                ):
                    yield node.attr, node
