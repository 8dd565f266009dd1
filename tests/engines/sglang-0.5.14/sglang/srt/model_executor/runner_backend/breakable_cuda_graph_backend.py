from runner import stand_in


class BreakableCUDAGraphCapture:
    def __enter__(self):
        self._begin()
        return self

    def __exit__(self, *exc_info) -> None:
        self._graph.capture_end()

    def _begin(self) -> None:
        self._graph = stand_in.StandInGraph()
        self._graph.capture_begin()


class BreakableCudaGraphBackend:
    def __init__(self) -> None:
        self._graphs = {}

    def capture_one(self, shape_key, forward_fn, dummies=None, post_warmup_hook=None) -> None:
        with BreakableCUDAGraphCapture() as capture:
            forward_fn()
        self._graphs[shape_key] = capture
