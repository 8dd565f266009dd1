from vllm.v1.worker.encoder_cudagraph import EncoderCudaGraphManager


class MMEncoderModelRunner:
    def __init__(self, model, budgets) -> None:
        self.manager = EncoderCudaGraphManager(model, budgets) if budgets else None

    def capture_model(self, *, profile_only: bool = False) -> int:
        if self.manager is None:
            return 0
        self.manager.capture()
        return 1
