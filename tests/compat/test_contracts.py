"""What the adapters rely on, version by version, in what the engines have published."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from otel_cudagraph.adapters import ADAPTERS
from tests.compat import engines, table, vllm_decisions
from tests.compat.sources import cache_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.compat

VERSIONS = [(name, wanted) for name in engines.VERSIONS for wanted in engines.wanted(name)]
CASES = [(row, wanted) for row in ADAPTERS for wanted in engines.wanted(row.distribution)]
of_an_adapter = pytest.mark.parametrize(
    ("row", "wanted"), CASES, ids=[f"{row.distribution}-{wanted}-{row.name}" for row, wanted in CASES]
)


def versions(distribution: str, wanted: Sequence[str]):
    return pytest.mark.parametrize("wanted", wanted, ids=[f"{distribution}-{each}" for each in wanted])


@of_an_adapter
def test_what_belongs_to_the_version_is_there(published, row, wanted) -> None:
    assert published(row.distribution, wanted).lacking(row) == []


@of_an_adapter
def test_what_does_not_belong_to_the_version_is_not_there(published, row, wanted) -> None:
    """A bound that is too narrow gives detail away, and one day names the wrong thing."""
    assert published(row.distribution, wanted).surplus(row) == []


@pytest.mark.parametrize(("name", "wanted"), VERSIONS, ids=[f"{name}-{each}" for name, each in VERSIONS])
def test_an_engine_that_captures_in_triggers_has_a_hook_for_them(published, name, wanted) -> None:
    engine = published(name, wanted)
    triggering = [row for row in engines.rows(name) if row.has_triggers]
    hooked = [str(hook.place) for row in triggering for hook in engine.hooks(row)]

    assert bool(hooked) == bool(triggering), f"{engine} has no hook"


@of_an_adapter
def test_a_trigger_that_waits_for_a_decision_has_one(published, row, wanted) -> None:
    engine = published(row.distribution, wanted)
    kinds = {engines.kind(hook) for hook in engine.hooks(row)}

    assert "undecided trigger" not in kinds or "decision" in kinds, f"{engine}: {row.name} decides nowhere"


@of_an_adapter
def test_holders_hold_the_hooked_function(published, row, wanted) -> None:
    assert published(row.distribution, wanted).empty_holders(row) == []


@versions("vllm", engines.wanted("vllm"))
def test_the_v1_runner_skips_the_capture_for_mode_none_alone(published, wanted) -> None:
    runner = vllm_decisions.v1(published("vllm", wanted))

    assert runner.first_statement_tests == "self.compilation_config.cudagraph_mode == CUDAGraphMode.NONE"
    assert runner.conditions_of_returns_before(runner.count) == [runner.first_statement_tests]


@versions("vllm", engines.wanted("vllm"))
def test_the_v2_runner_has_decided_when_it_sets_up_dummy_loras(published, wanted) -> None:
    runner = vllm_decisions.v2(published("vllm", wanted))
    if runner is None:
        pytest.skip("has no V2 runner, as the adapter says")

    (decision,) = runner.calls("maybe_setup_dummy_loras")
    assert runner.returns_after(decision) == [runner.last_statement]
    assert runner.count is None or runner.count.lineno < decision.lineno
    captures = [*runner.calls("capture"), *runner.calls("capture_model")]
    assert captures
    assert all(call.lineno > decision.lineno for call in captures)


@versions("torch", engines.VERSIONS["torch"])
def test_torch_s_own_source_is_counted_right(published, wanted) -> None:
    source = published("torch", wanted).source
    for file in source.paths():
        if file.startswith(("torch/cuda/graphs.py", "torch/cuda/_graph_")):
            source.read(file)
    path = cache_folder() / f"torch-{source.version}" / "torch" / "cuda" / "graphs.py"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_torch_source.py"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OTEL_CUDAGRAPH_TORCH_SOURCE": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr


def test_the_table_in_the_docs_is_up_to_date(index) -> None:
    written = table.PAGE.read_text("utf-8")

    assert table.render(index, table.newest_of(written)) == written, "run python -m tests.compat.table"
