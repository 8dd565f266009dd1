"""A graph for machines without a GPU: it records the operations of the body and runs them again.

It has the shape of `torch.cuda.graphs`, so that the same runner and the same
instrumentation serve both, and it fails where CUDA would: an operation that must
wait for the device invalidates the capture. It is slower than no graph at all and
is labelled as simulated wherever it shows.
"""

from __future__ import annotations

import itertools
import platform
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

# A dispatch mode imports this when it is first used, for seconds: not inside a capture.
import torch._dynamo
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from otel_cudagraph import GraphFamily

if TYPE_CHECKING:
    from typing import TypeAlias

    Pool: TypeAlias = tuple[int, int]

FAMILY = GraphFamily(
    name="cpu-stand-in",
    module=__name__,
    graph="StandInGraph",
    context="graph",
    device_module=__name__,
    hw_type="cpu",
    simulated=True,
)

_WAIT_FOR_DEVICE = frozenset({"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"})
"""Operations whose result the host must see, which a stream capture cannot give."""

_pools = itertools.count(1)


class StandInError(RuntimeError):
    """Raised where CUDA would refuse."""


class StreamCaptureUnsupported(StandInError):  # noqa: N818  CUDA's name for it
    """The body waits for the device (``cudaErrorStreamCaptureUnsupported``)."""


class StreamCaptureInvalidated(StandInError):  # noqa: N818  CUDA's name for it
    """The capture was invalidated by an earlier error (``cudaErrorStreamCaptureInvalidated``)."""


@dataclass(frozen=True)
class DeviceProperties:
    """What `get_device_properties` returns."""

    name: str


def current_device() -> int:
    """Return the one device's index."""
    return 0


def get_device_properties(index: int) -> DeviceProperties:
    """Return the processor's name."""
    return DeviceProperties(platform.processor() or platform.machine())


def graph_pool_handle() -> Pool:
    """Return a new memory pool's id."""
    return (0, next(_pools))


@dataclass
class _Operation:
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[torch.Tensor]

    def run(self) -> None:
        """Compute again from the same inputs into the same outputs."""
        results = _tensors(self.function(*self.args, **self.kwargs))
        for output, result in zip(self.outputs, results, strict=True):
            if output is not result:
                output.copy_(result)


class _Recording(TorchDispatchMode):
    """Executes operations and keeps those that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[_Operation] = []
        self.valid = True

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function._schema.name in _WAIT_FOR_DEVICE:  # noqa: SLF001  torch offers no public name
            self.valid = False
            raise StreamCaptureUnsupported(f"operation not permitted when stream is capturing: {function}")
        result = function(*args, **(kwargs or {}))
        # A view is the same memory: computing its base again is enough.
        if not function.is_view:
            self.operations.append(_Operation(function, args, kwargs or {}, _tensors(result)))
        return result


class StandInGraph:
    """Stands in for `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self._recording: _Recording | None = None
        self._operations: list[_Operation] | None = None
        self._pool: Pool | None = None

    def capture_begin(self, pool: Pool | None = None, capture_error_mode: str = "global") -> None:
        """Begin to record the operations of this thread."""
        if self._operations is not None:
            raise StandInError("this graph already holds a capture; reset() it or make another")
        self._pool = pool or graph_pool_handle()
        self._recording = _Recording()
        self._recording.__enter__()

    def capture_end(self) -> None:
        """End the capture.

        Raises:
            StreamCaptureInvalidated: the body did what a capture cannot hold.
        """
        recording, self._recording = self._recording, None
        if recording is None:
            raise StandInError("capture_end() without capture_begin()")
        recording.__exit__(None, None, None)
        if not recording.valid:
            raise StreamCaptureInvalidated("operation failed due to a previous error during capture")
        self._operations = recording.operations

    def replay(self) -> None:
        """Run the recorded operations again."""
        if self._operations is None:
            raise StandInError("replay() without a preceding successful capture")
        for operation in self._operations:
            operation.run()

    def reset(self) -> None:
        """Forget the capture."""
        if self._recording is not None:
            self._recording.__exit__(None, None, None)
        self._recording = self._operations = None

    def pool(self) -> Pool:
        """Return the id of the memory pool."""
        if self._pool is None:
            raise StandInError("pool() without a preceding successful capture")
        return self._pool


class graph:  # noqa: N801  torch.cuda.graph has this name
    """Stands in for the context manager `torch.cuda.graph`; one capture at a time in a process."""

    _capturing = threading.Lock()

    def __init__(self, cuda_graph: StandInGraph, pool: Pool | None = None) -> None:
        self._graph = cuda_graph
        self._pool = pool

    def __enter__(self) -> None:
        if not self._capturing.acquire(blocking=False):
            raise StandInError("another capture is under way")
        try:
            self._graph.capture_begin(pool=self._pool)
        except BaseException:
            self._capturing.release()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self._capturing.release()
        self._graph.capture_end()


def _tensors(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
