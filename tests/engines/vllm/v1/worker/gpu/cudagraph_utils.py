from dataclasses import dataclass

import torch

from runner import stand_in
from vllm.compilation.breakable_cudagraph import BreakableCUDAGraphWrapper
from vllm.compilation.counter import compilation_counter
from vllm.compilation.cuda_graph import CUDAGraphWrapper
from vllm.config import CUDAGraphMode
from vllm.forward_context import BatchDescriptor, set_forward_context

LAYERS = 4


@dataclass(frozen=True)
class BatchExecutionDescriptor:
    cg_mode: CUDAGraphMode
    num_tokens: int
    num_reqs: int | None
    uniform_token_count: int | None = None
    num_active_loras: int = 0


class CudaGraphManager:
    def __init__(self, compilation_config, *, breakable: bool = False) -> None:
        pieces = [lambda x: x * 2] * (LAYERS + 1)
        wrapped = [CUDAGraphWrapper(piece, CUDAGraphMode.PIECEWISE) for piece in pieces]
        self.breakable = BreakableCUDAGraphWrapper(pieces) if breakable else None
        self.pieces = pieces if breakable else wrapped
        self.graphs = {}
        self._capture_descs = {
            mode: [
                BatchExecutionDescriptor(mode, size, size if mode is CUDAGraphMode.FULL else None)
                for size in compilation_config.sizes
            ]
            for mode in compilation_config.modes()
        }

    def needs_capture(self) -> bool:
        return len(self._capture_descs) > 0

    def capture(self, create_forward_fn) -> None:
        for descs in self._capture_descs.values():
            for desc in descs:
                create_forward_fn(desc, warmup=True)(CUDAGraphMode.NONE)
                forward_fn = create_forward_fn(desc, warmup=False)
                if desc.cg_mode == CUDAGraphMode.PIECEWISE:
                    forward_fn(CUDAGraphMode.PIECEWISE)
                    continue
                graph = stand_in.StandInGraph()
                with stand_in.graph(graph):
                    forward_fn(CUDAGraphMode.NONE)
                self.graphs[desc] = graph
                compilation_counter.num_cudagraph_captured += 1

    def run(self, x):
        for piece in self.pieces:
            x = piece(x)
        return x


class ModelCudaGraphManager(CudaGraphManager):
    def capture(self) -> None:
        def create_forward_fn(desc, warmup):
            def forward_fn(mode) -> None:
                batch = BatchDescriptor(desc.num_tokens) if mode is CUDAGraphMode.PIECEWISE else None
                with set_forward_context(batch, mode):
                    run = self.breakable if batch is not None and self.breakable else self.run
                    run(torch.ones(desc.num_tokens))

            return forward_fn

        super().capture(create_forward_fn)


def profile_cudagraph_memory(runner) -> int:
    saved = vars(compilation_counter).copy()
    runner.capture_model(profile_only=True)
    vars(compilation_counter).update(saved)
    return 0
