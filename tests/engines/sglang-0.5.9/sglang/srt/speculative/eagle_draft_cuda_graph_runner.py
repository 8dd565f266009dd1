import torch
from sglang.srt.model_executor.cuda_graph_runner import CudaGraphRunner


class EAGLEDraftCudaGraphRunner:
    """No subclass: it borrows the methods of the model's runner."""

    def __init__(self, model_runner) -> None:
        self.model_runner = model_runner
        self.capture_bs = model_runner.capture_bs
        self.graphs = {}
        self.capture()

    def capture(self) -> None:
        CudaGraphRunner.capture(self)

    def capture_one_batch_size(self, num_seqs: int, forward, stream_idx: int = 0):
        num_tokens = num_seqs * 4
        return CudaGraphRunner._capture_graph(self, lambda: forward(torch.ones(num_tokens)))
