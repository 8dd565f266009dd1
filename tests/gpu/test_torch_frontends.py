"""torch's own ways to capture: all pass the choke point."""

import pytest

from tests.pipeline import Pipeline

torch = pytest.importorskip("torch")


def test_torch_compile_of_two_batch_sizes(pipeline: Pipeline) -> None:
    torch._dynamo.reset()
    model = torch.nn.Linear(16, 16, device="cuda")
    compiled = torch.compile(model, mode="reduce-overhead", dynamic=False)
    with torch.no_grad():
        for size in (4, 8):
            x = torch.randn(size, 16, device="cuda")
            for _ in range(3):
                torch.compiler.cudagraph_mark_step_begin()
                y = compiled(x)
            torch.testing.assert_close(y, model(x))

    spans = pipeline.captures()
    assert {span.attributes["cuda.graph.engine"] for span in spans} == {"torch.compile"}
    purposes = [span.attributes["cuda.graph.purpose"] for span in spans]
    assert purposes.count("internal") == 1
    assert purposes.count("serving") == 2
    assert {span.attributes["cuda.graph.phase"] for span in spans} == {"runtime"}
    assert pipeline.total("cuda.graph.captures", purpose="serving") == 2


def test_make_graphed_callables(pipeline: Pipeline) -> None:
    model = torch.nn.Linear(16, 16, device="cuda")
    x = torch.randn(4, 16, device="cuda", requires_grad=True)

    graphed = torch.cuda.make_graphed_callables(model, (x,))
    graphed(x).sum().backward()
    torch.cuda.synchronize()

    spans = pipeline.captures()
    assert len(spans) == 2
    assert {span.attributes["cuda.graph.engine"] for span in spans} == {"torch"}
    assert all(not span.is_error for span in spans)
    assert pipeline.total("cuda.graph.replays") == 2
