import torch

from vllm.compilation.counter import compilation_counter
from vllm.compilation.cuda_graph import CUDAGraphWrapper
from vllm.config import CompilationConfig, CUDAGraphMode
from vllm.forward_context import BatchDescriptor, set_forward_context

LAYERS = 4


class GPUModelRunner:
    def __init__(self, mode: str, **config) -> None:
        self.compilation_config = CompilationConfig(mode, **config)
        self.fail_in_warm_up: BaseException | None = None
        self._reset()

    def _reset(self) -> None:
        pieces = [lambda x: x * 2] * (LAYERS + 1)
        self.pieces = [CUDAGraphWrapper(piece, CUDAGraphMode.PIECEWISE) for piece in pieces]
        self.model = CUDAGraphWrapper(self._forward, CUDAGraphMode.FULL)

    def _forward(self, x):
        for piece in self.pieces:
            x = piece(x)
        return x

    def _dummy_run(self, num_tokens: int, mode) -> None:
        uniform = mode is CUDAGraphMode.FULL
        batch = BatchDescriptor(num_tokens, num_tokens if uniform else None, uniform)
        with set_forward_context(batch, mode):
            self.model(torch.ones(num_tokens))

    def _warmup_and_capture(self, num_tokens: int, mode) -> None:
        self._dummy_run(num_tokens, CUDAGraphMode.NONE)
        if self.fail_in_warm_up is not None:
            raise self.fail_in_warm_up
        self._dummy_run(num_tokens, mode)

    def profile_cudagraph_memory(self) -> int:
        saved = compilation_counter.num_cudagraph_captured
        for mode in self.compilation_config.modes():
            for size in self.compilation_config.sizes[:2]:
                self._warmup_and_capture(size, mode)
        compilation_counter.num_cudagraph_captured = saved
        self._reset()
        return 0

    def capture_model(self) -> int:
        if self.compilation_config.cudagraph_mode == CUDAGraphMode.NONE:
            return 0
        compilation_counter.num_gpu_runner_capture_triggers += 1
        for mode in self.compilation_config.modes():
            for size in self.compilation_config.sizes:
                self._warmup_and_capture(size, mode)
        return 1

    def release_graphs(self) -> None:
        self._reset()
