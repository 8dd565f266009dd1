"""Where vLLM's runners decide that there is something to capture: what the trigger hooks rest on."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from tests.compat.contracts import own

if TYPE_CHECKING:
    from tests.compat.contracts import Engine

_COUNTER = "compilation_counter.num_gpu_runner_capture_triggers"


def v1(engine: Engine) -> CaptureModel:
    """Return V1's ``capture_model``."""
    return CaptureModel(engine.find("vllm.v1.worker.gpu_model_runner", "GPUModelRunner.capture_model").node)


def v2(engine: Engine) -> CaptureModel | None:
    """Return V2's ``capture_model``, None where there is no V2."""
    found = engine.find("vllm.v1.worker.gpu.model_runner", "GPUModelRunner.capture_model")
    return None if found is None else CaptureModel(found.node)


class CaptureModel:
    """The statements of a ``capture_model``, in the order in which they stand."""

    def __init__(self, function: ast.FunctionDef) -> None:
        self._function = function

    @property
    def count(self) -> ast.AugAssign | None:
        """Where vLLM counts its trigger; nowhere in early V2."""
        counts = (
            node
            for node in own(self._function)
            if isinstance(node, ast.AugAssign) and ast.unparse(node.target) == _COUNTER
        )
        return next(counts, None)

    @property
    def first_statement_tests(self) -> str:
        """The condition of the ``if`` that it begins with."""
        body = self._function.body[1:] if ast.get_docstring(self._function) else self._function.body
        return ast.unparse(body[0].test)

    @property
    def last_statement(self) -> ast.stmt:
        """The statement that it ends with."""
        return self._function.body[-1]

    def calls(self, method: str) -> list[ast.Call]:
        """Return the calls of a method of whatever object."""
        return [
            node
            for node in own(self._function)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == method
        ]

    def conditions_of_returns_before(self, node: ast.AST) -> list[str]:
        """Return when it returns early, statement by statement."""
        early = [each for each in self._function.body if each.lineno < node.lineno and _returns(each)]
        return [ast.unparse(each.test) if isinstance(each, ast.If) else ast.unparse(each) for each in early]

    def returns_after(self, node: ast.AST) -> list[ast.Return]:
        """Return the ``return`` statements behind a node."""
        return [each for each in _returns(self._function) if each.lineno > node.lineno]


def _returns(scope: ast.AST) -> list[ast.Return]:
    return [node for node in (scope, *own(scope)) if isinstance(node, ast.Return)]
