"""`expect`: the same for captures of this process and of others."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from otel_cudagraph.testing import expectation as given
from otel_cudagraph.testing.block import Block, Captured
from otel_cudagraph.testing.expectation import Expectation, Filter, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet
    from types import TracebackType
    from typing import NoReturn

    from otel_cudagraph.testing.block import Start
    from otel_cudagraph.testing.received import Received

__tracebackhide__ = True  # pytest shows the test, not the lines in here that raise for it


class Captures(ABC):
    """The captures of one test; what `InProcessCaptures` and `OtlpCaptures` have in common."""

    received: Received
    """Everything so far, for what `expect` does not offer."""

    def __init__(self) -> None:
        self._given: list[Expecting] = []

    def expect(  # noqa: PLR0913  each can be expected by itself
        self,
        *,
        triggers: int | None = None,
        graphs: int | None = None,
        failed: int | None = 0,
        engine: str | None = None,
        mode: str | None = None,
        purpose: str | None = "serving",
        phase: str | None = None,
        keys: Sequence[str] | AbstractSet[str] | None = None,
        largest_first: bool = False,
        replays: int | None = None,
        max_trigger_s: float | None = None,
        timeout_s: float = 30.0,
        **unknown: NoReturn,
    ) -> Expecting:
        """Expect these captures of the block, and no others that count.

        Args:
            triggers: Capture triggers.
            graphs: Graphs captured well.
            failed: Captures that failed; with 0 no trigger may have failed either.
            engine: Only triggers and graphs of this ``cuda.graph.engine`` count.
            mode: Only graphs of this ``cuda.graph.runtime_mode`` count.
            purpose: Only triggers and graphs of this purpose count; None counts all.
            phase: Only graphs of this phase count.
            keys: Keys of the graphs: a list is exactly these in capture order, a set
                these in any order and number.
            largest_first: Whether the sizes (``num_tokens``, else ``batch_size``) must
                not grow within one mode of a trigger.
            replays: Replays in the block.
            max_trigger_s: Longest that a trigger may take, in seconds.
            timeout_s: Longest wait for telemetry of other processes, in seconds; in
                this process nothing is waited for.
            **unknown: None: for a message that names what there is.

        Returns:
            A context manager that gives a `Captured`. Where the block raises, that
            exception goes on and nothing is checked.

        Raises:
            TypeError: A parameter does not exist or has the wrong type.
            ValueError: A parameter has a value that does not exist or is negative.
            AssertionError: When the block ends: what was captured is not as expected.
        """
        for name in unknown:
            raise TypeError(f"expect() has no parameter {name!r}; it has: {', '.join(_parameters())}")
        expected = Expectation(
            triggers=given.count("triggers", triggers),
            graphs=given.count("graphs", graphs),
            failed=given.count("failed", failed),
            filter=Filter.of(engine=engine, mode=mode, purpose=purpose, phase=phase),
            keys=given.keys(keys),
            largest_first=bool(largest_first),
            replays=given.count("replays", replays),
            max_trigger_s=None if max_trigger_s is None else given.seconds("max_trigger_s", max_trigger_s),
        )
        if not isinstance(largest_first, bool):
            raise TypeError(f"largest_first={largest_first!r} is neither True nor False")
        expecting = Expecting(self, expected, given.seconds("timeout_s", timeout_s))
        self._given.append(expecting)
        return expecting

    def check_that_all_began(self) -> None:
        """Find what was expected and never checked.

        Raises:
            AssertionError: `expect` was called without ``with``.
        """
        for expecting in self._given:
            if not expecting.has_begun:
                raise AssertionError(
                    f"expect({expecting}) was called without `with`: nothing was checked. "
                    "Write `with cudagraphs.expect(...):` round what captures"
                )

    @abstractmethod
    def begin(self, timeout_s: float) -> Start:
        """Return what there is when a block begins."""

    @abstractmethod
    def conclude(self, start: Start, look: Callable[[Block], bool], timeout_s: float) -> bool:
        """Let `look` see the block, until it says that all is there; False where the time was over first."""

    @abstractmethod
    def catch_up(self) -> None:
        """Take in what is at hand; never waits, never raises."""

    @abstractmethod
    def hints(self) -> list[str]:
        """Return what to check where nothing was captured."""


class Expecting:
    """The context manager that `expect` returns."""

    def __init__(self, source: Captures, expectation: Expectation, timeout_s: float) -> None:
        self._source = source
        self._expectation = expectation
        self._timeout_s = timeout_s
        self.has_begun = False

    def __str__(self) -> str:
        return str(self._expectation)

    def __enter__(self) -> Captured:
        self.has_begun = True
        self._start = self._source.begin(self._timeout_s)
        self._captured = Captured(self._expectation)
        return self._captured

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if error is not None:  # it is what the test must show, whatever else is wrong
            self._source.catch_up()
            self._captured.update(Block(self._source.received, self._start))
            return
        is_all = self._source.conclude(self._start, self._look, self._timeout_s)
        problems = self._captured.problems()
        if problems and not is_all:
            problems.append(Problem(f"waited for it until timeout_s={self._timeout_s:g} was over"))
        if problems:
            raise AssertionError(self._captured.failure(problems, self._source.hints()))

    def _look(self, block: Block) -> bool:
        """Return whether no more telemetry can change the verdict."""
        self._captured.update(block)
        if any(problem.may_be_late for problem in block.contradictions(self._expectation.filter)):
            return False
        problems = self._captured.problems()
        return not problems or not all(problem.may_be_late for problem in problems)


def _parameters() -> list[str]:
    parameters = inspect.signature(Captures.expect).parameters.values()
    return [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
