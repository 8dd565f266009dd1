import torch
from sglang.srt.model_executor.runner.shape_key import ShapeKey
from sglang.srt.model_executor.runner_backend.breakable_cuda_graph_backend import BreakableCudaGraphBackend
from sglang.srt.model_executor.runner_backend.full_cuda_graph_backend import FullCudaGraphBackend
from sglang.srt.model_executor.runner_backend.tc_piecewise_cuda_graph_backend import (
    TcPiecewiseCudaGraphBackend,
)

BACKENDS = {
    "full": FullCudaGraphBackend,
    "breakable": BreakableCudaGraphBackend,
    "tc_piecewise": TcPiecewiseCudaGraphBackend,
}


class PrefillCudaGraphRunner:
    def __init__(self, model_runner) -> None:
        self.model_runner = model_runner
        self.backend = BACKENDS[model_runner.prefill]()
        self.capture()

    def capture(self) -> None:
        for num_tokens in reversed(self.model_runner.capture_num_tokens):
            self.capture_one_shape(num_tokens)

    def capture_one_shape(self, size: int) -> None:
        self.backend.capture_one(ShapeKey(size=size), lambda: self.model_runner.forward(torch.ones(size)))
