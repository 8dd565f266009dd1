import torch
from sglang.srt.model_executor.runner.decode_cuda_graph_runner import DecodeCudaGraphRunner
from sglang.srt.model_executor.runner.shape_key import ShapeKey


class EAGLEDraftCudaGraphRunner(DecodeCudaGraphRunner):
    def capture_one_shape(self, size: int, forward, stream_idx=None, variant_label=None) -> None:
        num_seqs = size
        self.backend.capture_one(ShapeKey(size=num_seqs), lambda: forward(torch.ones(num_seqs * 4)))
