from runner import stand_in


class EncoderCudaGraphManager:
    def __init__(self, model, budgets) -> None:
        self.model = model
        self.budgets = budgets
        self.graphs = {}

    def capture(self, graph_pool=None) -> None:
        for budget in sorted(self.budgets, reverse=True):
            self._capture_budget_graph(budget)

    def _capture_budget_graph(self, token_budget: int, path: str = "default", axis_keys=()) -> None:
        graph = stand_in.StandInGraph()
        with stand_in.graph(graph):
            self.model()
        self.graphs[token_budget] = graph
