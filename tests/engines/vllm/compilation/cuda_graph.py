from runner import stand_in
from vllm.compilation.counter import compilation_counter
from vllm.forward_context import get_forward_context, is_forward_context_available


class CUDAGraphWrapper:
    def __init__(self, runnable, runtime_mode) -> None:
        self.runnable = runnable
        self.runtime_mode = runtime_mode
        self.entries = {}

    def __call__(self, x):
        if not is_forward_context_available():
            return self.runnable(x)
        context = get_forward_context()
        if context.cudagraph_runtime_mode is not self.runtime_mode:
            return self.runnable(x)
        if context.batch_descriptor in self.entries:
            self.entries[context.batch_descriptor].replay()
            return x
        graph = stand_in.StandInGraph()
        with stand_in.graph(graph):
            output = self.runnable(x)
        self.entries[context.batch_descriptor] = graph
        compilation_counter.num_cudagraph_captured += 1
        return output
