from sglang.srt.model_executor.breakable_cuda_graph_runner import BreakableCudaGraphRunner
from sglang.srt.model_executor.cuda_graph_runner import CudaGraphRunner
from sglang.srt.model_executor.piecewise_cuda_graph_runner import PiecewiseCudaGraphRunner


class ModelRunner:
    def __init__(self, *, disable_cuda_graph=False, prefill=None, capture_bs=(1, 2), streams=(None,)) -> None:
        self.disable_cuda_graph = disable_cuda_graph
        self.prefill = prefill
        self.capture_bs = capture_bs
        self.capture_num_tokens = (16, 64)
        self.streams = streams

    def initialize(self) -> None:
        self.init_device_graphs()
        self.init_piecewise_cuda_graphs()

    def forward(self, x):
        return x * 2

    def init_device_graphs(self) -> None:
        self.graph_runner = None
        if self.disable_cuda_graph:
            return
        self.graph_runner = CudaGraphRunner(self)

    def init_piecewise_cuda_graphs(self) -> None:
        if self.prefill == "piecewise":
            self.piecewise_cuda_graph_runner = PiecewiseCudaGraphRunner(self)
        elif self.prefill == "breakable":
            self.piecewise_cuda_graph_runner = BreakableCudaGraphRunner(self)
