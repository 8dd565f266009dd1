from sglang.srt.model_executor.runner.decode_cuda_graph_runner import DecodeCudaGraphRunner
from sglang.srt.model_executor.runner.prefill_cuda_graph_runner import PrefillCudaGraphRunner


class ModelRunner:
    def __init__(
        self, *, disable_cuda_graph=False, prefill=None, glue=False, capture_bs=(1, 2), streams=(None,)
    ) -> None:
        self.disable_cuda_graph = disable_cuda_graph
        self.prefill = prefill
        self.glue = glue
        self.capture_bs = capture_bs
        self.capture_num_tokens = (16, 64)
        self.streams = streams

    def initialize(self) -> None:
        self.init_cuda_graphs()

    def forward(self, x):
        return x * 2

    def init_cuda_graphs(self, capture_decode_cuda_graph: bool = True) -> None:
        self.prefill_cuda_graph_runner = self.decode_cuda_graph_runner = None
        if self.prefill is not None:
            self.prefill_cuda_graph_runner = PrefillCudaGraphRunner(self)
        if capture_decode_cuda_graph and not self.disable_cuda_graph:
            self.decode_cuda_graph_runner = DecodeCudaGraphRunner(self)

    def ensure_decode_cuda_graphs(self) -> None:
        """Capture what an instance that only prefilled lacks."""
        self.init_decode_cuda_graph()

    def _recapture_elastic_cuda_graphs(self) -> None:
        self.init_decode_cuda_graph()

    def init_decode_cuda_graph(self) -> None:
        self.decode_cuda_graph_runner = DecodeCudaGraphRunner(self)
