import torch

from runner import stand_in


class BreakableCudaGraphRunner:
    """Of 0.5.12 and 0.5.13."""

    def __init__(self, model_runner) -> None:
        self.model_runner = model_runner
        self._capture_all()

    def _capture_all(self) -> None:
        self.graphs = [self._capture_one(each) for each in reversed(self.model_runner.capture_num_tokens)]

    def _capture_one(self, num_tokens: int):
        graph = stand_in.StandInGraph()
        graph.capture_begin()
        self.model_runner.forward(torch.ones(num_tokens))
        graph.capture_end()
        return graph
