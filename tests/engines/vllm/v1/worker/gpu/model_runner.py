import contextlib

from vllm.compilation.counter import compilation_counter
from vllm.config import CompilationConfig
from vllm.v1.worker.encoder_cudagraph import EncoderCudaGraphManager
from vllm.v1.worker.gpu.cudagraph_utils import ModelCudaGraphManager
from vllm.v1.worker.gpu.cudagraph_utils import profile_cudagraph_memory as _profile_cudagraph_memory


class LoRAModelRunnerMixin:
    @contextlib.contextmanager
    def maybe_setup_dummy_loras(self, config):
        yield


class GPUModelRunner(LoRAModelRunnerMixin):
    def __init__(
        self, mode: str, *, breakable: bool = False, pipeline_parallel: bool = False, **config
    ) -> None:
        self.compilation_config = CompilationConfig(mode, **config)
        self.use_pp = pipeline_parallel
        self.breakable = breakable
        self.speculator = None
        self.encoder = None
        self.fail_in_warm_up: BaseException | None = None
        self._reset()

    def _reset(self) -> None:
        self.cudagraph_manager = ModelCudaGraphManager(self.compilation_config, breakable=self.breakable)

    def with_encoder(self, model, budgets):
        self.encoder = EncoderCudaGraphManager(model, budgets)
        return self

    def profile_cudagraph_memory(self) -> int:
        _profile_cudagraph_memory(self)
        self._reset()
        return 0

    def capture_model(self, *, profile_only: bool = False) -> int:
        if not self.cudagraph_manager.needs_capture():
            return 0
        if self.use_pp:
            return 0
        compilation_counter.num_gpu_runner_capture_triggers += 1
        with self.maybe_setup_dummy_loras(None):
            if self.fail_in_warm_up is not None:
                raise self.fail_in_warm_up
            if self.encoder is not None:
                self.encoder.capture()
            self.cudagraph_manager.capture()
            if self.speculator is not None:
                self.speculator.capture()
        return 1
