import torch

from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager


class PrefillSpeculatorCudaGraphManager(CudaGraphManager):
    pass


class Speculator:
    def __init__(self, compilation_config) -> None:
        self.managers = [
            kind(compilation_config) for kind in (PrefillSpeculatorCudaGraphManager, CudaGraphManager)
        ]

    def capture(self) -> None:
        for manager in self.managers:
            manager.capture(lambda desc, warmup, m=manager: lambda mode: m.run(torch.ones(desc.num_tokens)))
