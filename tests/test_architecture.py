"""The layout's rules: who imports whom, what an import costs, how long things may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import otel_cudagraph

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "otel_cudagraph"
LAYERS = [
    {"semconv", "environment_variables", "version", "clock", "families", "_guard", "_patching", "frames"},
    {"config", "facts", "imports", "exit_hooks"},
    {"attributes", "attribution", "devices", "scope", "recaptures"},
    {"graphs"},
    {"ledger"},
    {"telemetry", "sdk_setup"},
    {"outbox"},
    {"recorder", "triggers"},
    {"choke_point", "current"},
    {"api", "adapters"},
    {"self_check"},
    {"installation"},
    {"instrumentor"},
    {"__init__", "vllm_plugin"},
    {"pytest_plugin"},
]
"""From the leaves up; a module imports from lower layers only."""


def imports(path: Path, *, at_run_time: bool = True) -> set[str]:
    """Return the modules of ours that a file imports, without those for type checking alone."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node not in skipped:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import) and node not in skipped:
            found |= {alias.name for alias in node.names}
    return found


def test_every_module_has_its_layer() -> None:
    assert {*(path.stem for path in PACKAGE.glob("*.py")), "adapters"} == set.union(*LAYERS)


def test_imports_go_one_way() -> None:
    level = {module: number for number, modules in enumerate(LAYERS) for module in modules}
    wrong = [
        f"{path.stem} imports {name}"
        for path in [*PACKAGE.glob("*.py"), *(PACKAGE / "adapters").glob("*.py")]
        for name in imports(path)
        if name.startswith("otel_cudagraph.")
        for module in [name.split(".")[1]]
        for own in ["adapters" if path.parent.name == "adapters" else path.stem]
        if module in level and level[module] >= level[own] and not module == own == "adapters"
    ]
    assert wrong == []


def test_the_runner_uses_the_public_api_alone() -> None:
    public = {f"otel_cudagraph.{name}" for name in otel_cudagraph.__all__}
    used = {
        name
        for path in (ROOT / "runner").glob("*.py")
        for name in imports(path)
        if name.startswith("otel_cudagraph")
    }
    assert {n for n in used if not n.startswith("otel_cudagraph.testing.")} <= public | {
        "otel_cudagraph.semconv"
    }


def test_public_names() -> None:
    assert sorted(otel_cudagraph.__all__) == [
        "Config",
        "CudaGraphInstrumentor",
        "GraphFamily",
        "__version__",
        "batch_descriptor",
        "capture_trigger",
        "register_graph_family",
    ]


@pytest.mark.parametrize(
    "module", ["torch", "opentelemetry.sdk", "grpc", "google.protobuf", "pytest", "vllm"]
)
def test_importing_the_library_imports_no(module: str) -> None:
    code = f"import otel_cudagraph, sys; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def functions(folder: str) -> list[tuple[str, int]]:
    """Return each function with the lines of its body, docstring not counted."""
    found = []
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                found.append((f"{path.name}:{node.name}", lines))
    return found


@pytest.mark.parametrize("folder", ["otel_cudagraph", "runner"])
def test_functions_are_short(folder: str) -> None:
    lengths = sorted(lines for _, lines in functions(folder))

    assert lengths[len(lengths) // 2] <= 10
    assert lengths[int(len(lengths) * 0.9)] <= 30


def test_no_function_repeats_another_s_body() -> None:
    bodies: dict[str, str] = {}
    repeated = []
    for folder in ("otel_cudagraph", "runner", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.FunctionDef):
                    body = node.body[1:] if ast.get_docstring(node) else node.body
                    text = "\n".join(ast.unparse(statement) for statement in body)
                    name = f"{path.name}:{node.name}"
                    if text.count("\n") >= 2 and text in bodies:
                        repeated.append(f"{name} = {bodies[text]}")
                    bodies[text] = name
    assert repeated == []
