import contextlib
from dataclasses import dataclass
from typing import NamedTuple

from vllm.config import CUDAGraphMode


class BatchDescriptor(NamedTuple):
    num_tokens: int
    num_reqs: int | None = None
    uniform: bool = False
    has_lora: bool = False


@dataclass
class ForwardContext:
    batch_descriptor: BatchDescriptor | None
    cudagraph_runtime_mode: CUDAGraphMode


_forward_context: ForwardContext | None = None


def is_forward_context_available() -> bool:
    return _forward_context is not None


def get_forward_context() -> ForwardContext:
    assert _forward_context is not None
    return _forward_context


@contextlib.contextmanager
def set_forward_context(batch_descriptor, mode):
    global _forward_context
    before, _forward_context = _forward_context, ForwardContext(batch_descriptor, mode)
    try:
        yield
    finally:
        _forward_context = before
