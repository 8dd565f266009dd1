import torch

from runner import stand_in

PIECES = 2


class PiecewiseCudaGraphRunner:
    def __init__(self, model_runner) -> None:
        self.model_runner = model_runner
        self.graphs = []
        self.capture()

    def capture(self) -> None:
        for num_tokens in reversed(self.model_runner.capture_num_tokens):
            self.capture_one_batch_size(num_tokens)

    def capture_one_batch_size(self, num_tokens: int) -> None:
        bs = 1
        for _ in range(PIECES):
            graph = stand_in.StandInGraph()
            with stand_in.graph(cuda_graph=graph):
                self.model_runner.forward(torch.ones(bs, num_tokens))
            self.graphs.append(graph)
