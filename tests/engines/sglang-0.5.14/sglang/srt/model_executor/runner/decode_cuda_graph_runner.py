import torch
from sglang.srt.model_executor.runner.shape_key import ShapeKey
from sglang.srt.model_executor.runner_backend.full_cuda_graph_backend import FullCudaGraphBackend

from runner import stand_in


class DecodeCudaGraphRunner:
    def __init__(self, model_runner, variants=(None,)) -> None:
        self.model_runner = model_runner
        self.backend = FullCudaGraphBackend()
        self.variants = variants
        self.glue = None
        try:
            self.capture()
        except RuntimeError as e:
            raise Exception(f"Capture cuda graph failed: {e}") from e  # noqa: TRY002  as the engine does

    def capture(self) -> None:
        if self.model_runner.glue:
            self._capture_metadata_glue()
        for stream_idx in self.model_runner.streams:
            for size in reversed(self.model_runner.capture_bs):
                for variant_label in self.variants:
                    self.capture_one_shape(size, self.model_runner.forward, stream_idx, variant_label)

    def capture_one_shape(self, size: int, forward, stream_idx=None, variant_label=None) -> None:
        def run_once():
            return forward(torch.ones(size))

        self.backend.capture_one(ShapeKey(size, stream_idx, variant_label), run_once)

    def _capture_metadata_glue(self) -> None:
        self.glue = stand_in.StandInGraph()
        with stand_in.graph(self.glue):
            torch.ones(1) + 1
