import torch

from runner import stand_in


class CudaGraphRunner:
    def __init__(self, model_runner) -> None:
        self.model_runner = model_runner
        self.capture_bs = model_runner.capture_bs
        self.num_tokens_per_bs = 1
        self.graphs = {}
        try:
            self.capture()
        except RuntimeError as e:
            raise Exception(f"Capture cuda graph failed: {e}")  # noqa: B904, TRY002  as the engine does

    def capture(self) -> None:
        for stream_idx in self.model_runner.streams:
            for bs in reversed(self.capture_bs):
                key = bs if stream_idx is None else f"{stream_idx}_{bs}"
                self.graphs[key] = self.capture_one_batch_size(bs, self.model_runner.forward, stream_idx)

    def capture_one_batch_size(self, bs: int, forward, stream_idx=None):
        num_tokens = bs * self.num_tokens_per_bs

        def run_once():
            return forward(torch.ones(num_tokens))

        run_once()
        return self._capture_graph(run_once)

    def _capture_graph(self, run_once_fn):
        graph = stand_in.StandInGraph()
        with stand_in.graph(cuda_graph=graph):
            run_once_fn()
        return graph
