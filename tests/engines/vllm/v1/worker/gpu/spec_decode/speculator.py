import torch

from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager


class Speculator:
    def __init__(self, compilation_config) -> None:
        self.cudagraph_manager = CudaGraphManager(compilation_config)

    def capture(self) -> None:
        self.cudagraph_manager.capture(
            lambda desc, warmup: lambda mode: self.cudagraph_manager.run(torch.ones(desc.num_tokens))
        )
