import torch

from runner import stand_in


class ViTCudaGraphRunner:
    """Captures for each image size that it meets, while it serves."""

    def __init__(self) -> None:
        self.graphs = {}

    def run(self, seq_len: int) -> None:
        if seq_len not in self.graphs:
            self.create_graph(seq_len)
        self.graphs[seq_len].replay()

    def create_graph(self, seq_len: int) -> None:
        graph = stand_in.StandInGraph()
        with stand_in.graph(graph):
            torch.ones(seq_len) * 2
        self.graphs[seq_len] = graph
