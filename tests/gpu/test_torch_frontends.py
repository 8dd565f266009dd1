"""torch's own ways to capture: all pass the choke point."""

import pytest

from tests.pipeline import Pipeline

torch = pytest.importorskip("torch")


def keys(spans: list) -> list[str]:
    return [span.attributes.get("cuda.graph.key") for span in spans]


def serving(pipeline: Pipeline) -> list:
    return [s for s in pipeline.captures() if s.attributes["cuda.graph.purpose"] == "serving"]


def step(compiled, *args):
    """Call often enough that it is warmed up, recorded and replayed."""
    for _ in range(3):
        torch.compiler.cudagraph_mark_step_begin()
        result = compiled(*args)
    return result


def test_torch_compile_of_two_batch_sizes(pipeline: Pipeline) -> None:
    """Two sizes, then a third: three recordings, and none of the first two again."""
    torch._dynamo.reset()
    model = torch.nn.Linear(16, 16, device="cuda")
    compiled = torch.compile(model, mode="reduce-overhead", dynamic=False)
    with torch.no_grad():
        for size in (4, 8):
            x = torch.randn(size, 16, device="cuda")
            torch.testing.assert_close(step(compiled, x), model(x))
        assert len(serving(pipeline)) == 2
        for size in (4, 8, 12):
            step(compiled, torch.randn(size, 16, device="cuda"))

    spans = pipeline.captures()
    assert {span.attributes["cuda.graph.engine"] for span in spans} == {"torch.compile"}
    purposes = [span.attributes["cuda.graph.purpose"] for span in spans]
    assert purposes.count("internal") == 1
    assert keys(serving(pipeline)) == [f"function={number} inference" for number in range(3)]
    assert {span.attributes["cuda.graph.phase"] for span in spans} == {"runtime"}
    assert pipeline.total("cuda.graph.captures", purpose="serving") == 3
    assert pipeline.triggers() == []


def test_torch_compile_with_dynamic_sizes_names_them(pipeline: Pipeline) -> None:
    torch._dynamo.reset()
    model = torch.nn.Linear(16, 16, device="cuda")
    compiled = torch.compile(model, mode="reduce-overhead", dynamic=True)
    with torch.no_grad():
        for size in (4, 8):
            step(compiled, torch.randn(size, 16, device="cuda"))

    found = keys(serving(pipeline))
    assert len(found) == 2
    assert found[0].endswith("symints=4")
    assert found[1].endswith("symints=8")


def test_torch_compile_records_a_function_again(pipeline: Pipeline) -> None:
    """A parameter that moves makes Inductor record the function again."""
    torch._dynamo.reset()
    model = torch.nn.Linear(16, 16, device="cuda")
    compiled = torch.compile(model, mode="reduce-overhead", dynamic=False)
    x = torch.randn(4, 16, device="cuda")
    with torch.no_grad():
        step(compiled, x)
        model.weight.data = model.weight.data.clone()
        step(compiled, x)

    spans = serving(pipeline)
    assert [span.attributes["cuda.graph.phase"] for span in spans] == ["runtime", "recapture"]
    assert len(set(keys(spans))) == 1


def test_torch_compile_skips_a_mutated_input(pipeline: Pipeline) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: x.add_(1), mode="reduce-overhead")
    x = torch.zeros(8, device="cuda")
    step(compiled, x)

    assert x.tolist() == [3.0] * 8
    assert serving(pipeline) == []
    skips = pipeline.metrics()["cuda.graph.skips"]
    assert {point.attributes["cuda.graph.skip_reason"] for point in skips.points} == {"mutated_inputs"}
    from torch._dynamo.utils import counters

    assert skips.total(engine="torch.compile") == counters["inductor"]["cudagraph_skips"]


def test_torch_compile_forward_and_backward(pipeline: Pipeline) -> None:
    torch._dynamo.reset()
    model = torch.nn.Linear(16, 16, device="cuda")
    compiled = torch.compile(model, mode="reduce-overhead", dynamic=False)
    x = torch.randn(4, 16, device="cuda")
    for _ in range(4):
        model.zero_grad(set_to_none=True)  # gradients are a graph's output, which the next step overwrites
        torch.compiler.cudagraph_mark_step_begin()
        compiled(x).sum().backward()

    directions = [key.split()[1] for key in dict.fromkeys(keys(serving(pipeline)))]
    assert directions == ["forward", "backward"]


def test_torch_compile_with_the_cudagraphs_backend(pipeline: Pipeline) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: x * 2 + 1, backend="cudagraphs")
    with torch.no_grad():
        step(compiled, torch.ones(8, device="cuda"))

    assert {span.attributes["cuda.graph.engine"] for span in pipeline.captures()} == {"torch.compile"}
    assert len(serving(pipeline)) == 1


def test_torch_compile_without_trees(pipeline: Pipeline) -> None:
    torch._dynamo.reset()
    options = {"triton.cudagraphs": True, "triton.cudagraph_trees": False}
    compiled = torch.compile(lambda x: x * 2 + 1, options=options)
    with torch.no_grad():
        step(compiled, torch.ones(8, device="cuda"))

    (span,) = pipeline.captures()
    assert span.attributes["cuda.graph.engine"] == "torch.compile"
    assert span.attributes["cuda.graph.purpose"] == "serving"


def test_make_graphed_callables(pipeline: Pipeline) -> None:
    first, second = (torch.nn.Linear(16, 16, device="cuda") for _ in range(2))
    x = torch.randn(4, 16, device="cuda", requires_grad=True)

    graphed = torch.cuda.make_graphed_callables((first, second), ((x,), (x.detach().requires_grad_(),)))
    graphed[1](graphed[0](x)).sum().backward()
    torch.cuda.synchronize()

    spans = pipeline.captures()
    assert keys(spans) == [
        "Linear forward callable=0",
        "Linear forward callable=1",
        "Linear backward callable=1",
        "Linear backward callable=0",
    ]
    assert {span.attributes["cuda.graph.engine"] for span in spans} == {"torch"}
    assert all(not span.is_error for span in spans)
    assert pipeline.total("cuda.graph.replays") == 4
    (trigger,) = pipeline.triggers()
    assert trigger.attributes["code.function.name"] == "torch.cuda.graphs.make_graphed_callables"
    assert {span.parent_id for span in spans} == {trigger.span_id}
