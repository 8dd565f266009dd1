class ContinuousBatchingIOs:
    def __init__(self) -> None:
        self.graphs = {}

    def prepare_batch_tensors(self, num_q_tokens, max_kv_read, lengths) -> None:
        self.num_q_tokens = num_q_tokens
        self.use_block_table = max_kv_read is None
        self.max_kv_read = 0 if self.use_block_table else max_kv_read
        self.max_length_k = lengths

    def _get_graph_key(self) -> tuple:
        if self.use_block_table:
            return (self.num_q_tokens,)
        return (self.num_q_tokens, self.max_kv_read, *self.max_length_k.values())

    def get_graph(self):
        return self.graphs.get(self._get_graph_key())

    def set_graph(self, graph) -> None:
        self.graphs[self._get_graph_key()] = graph


class FormerContinuousBatchingIOs(ContinuousBatchingIOs):
    """As in 5.17, where the lengths had another name."""

    def prepare_batch_tensors(self, num_q_tokens, max_kv_read, lengths) -> None:
        super().prepare_batch_tensors(num_q_tokens, max_kv_read, lengths)
        self.max_seqlen_k = self.__dict__.pop("max_length_k")

    def _get_graph_key(self) -> tuple:
        return (self.num_q_tokens, self.max_kv_read, *self.max_seqlen_k.values())


class HostDeviceIOPair:
    def __init__(self) -> None:
        self.device_io = ContinuousBatchingIOs()


class ContinuousBatchingAsyncIOs:
    def __init__(self) -> None:
        self.current_pair = 0
        self.io_pairs = [HostDeviceIOPair(), HostDeviceIOPair()]

    def prepare_batch_tensors(self, *batch) -> None:
        self.io_pairs[self.current_pair].device_io.prepare_batch_tensors(*batch)

    def get_graph(self):
        return self.io_pairs[self.current_pair].device_io.get_graph()

    def set_graph(self, graph) -> None:
        self.io_pairs[self.current_pair].device_io.set_graph(graph)

    def swap_io_pairs(self) -> None:
        self.current_pair = 1 - self.current_pair
