"""transformers' continuous batching: graphs that are captured while requests are served."""

import pytest

from tests.pipeline import Pipeline

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LIMITS = {"num_blocks": 64, "max_batch_tokens": 64, "use_cuda_graph": True}


def tiny_model():
    config = transformers.Qwen3Config(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
    )
    model = transformers.Qwen3ForCausalLM(config)
    model.set_attn_implementation("sdpa")
    return model.to("cuda", torch.bfloat16).eval()


@pytest.mark.parametrize(("warmup", "phase"), [(False, "runtime"), (True, "startup")])
def test_continuous_batching(pipeline: Pipeline, *, warmup: bool, phase: str) -> None:
    torch.manual_seed(0)
    model = tiny_model()
    config = transformers.GenerationConfig(
        max_new_tokens=4, do_sample=False, eos_token_id=255, pad_token_id=0
    )
    batching = transformers.ContinuousBatchingConfig(**LIMITS)

    answers = model.generate_batch(
        inputs=[[1, 2, 3], [4, 5, 6, 7]],
        generation_config=config,
        continuous_batching_config=batching,
        progress_bar=False,
        warmup=warmup,
    )

    assert len(answers) == 2
    spans = pipeline.captures()
    assert spans
    assert {span.attributes["cuda.graph.engine"] for span in spans} == {"transformers"}
    assert phase in {span.attributes["cuda.graph.phase"] for span in spans}
    keys = [span.attributes["cuda.graph.key"] for span in spans]
    assert len(set(keys)) == len(keys)
    assert all(key.startswith("num_tokens=") for key in keys)
    assert pipeline.triggers() == []
