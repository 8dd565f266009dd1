from runner import stand_in
from vllm.forward_context import get_forward_context


class BreakableCUDAGraphCapture:
    def __init__(self) -> None:
        self.segments = []

    def __enter__(self):
        self._begin_segment()
        return self

    def __exit__(self, *exc_info) -> None:
        self._end_segment()

    def _begin_segment(self) -> None:
        self._current_graph = stand_in.StandInGraph()
        self._current_graph.capture_begin()

    def _end_segment(self) -> None:
        self._current_graph.capture_end()
        self.segments.append(self._current_graph.replay)

    def add_eager(self, fn):
        self._end_segment()
        result = fn()
        self.segments.append(fn)
        self._begin_segment()
        return result


class BreakableCUDAGraphWrapper:
    """Captures what lies between the eager breaks of `pieces`, and counts nothing, as the real one."""

    def __init__(self, pieces) -> None:
        self.pieces = pieces
        self.entries = {}

    def __call__(self, x):
        capture = BreakableCUDAGraphCapture()
        with capture:
            for piece in self.pieces[:-1]:
                x = piece(x)
                capture.add_eager(lambda: None)
            x = self.pieces[-1](x)
        self.entries[get_forward_context().batch_descriptor] = capture
        return x
