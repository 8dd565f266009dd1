"""Runs the real vLLM on a tiny model with random weights; writes what vLLM itself counted.

Usage: python tests/gpu/vllm_engine.py RESULT.json --runner v1|v2 --mode MODE [--sizes 1,2,4,8] …

Knows nothing of the instrumentation: that comes in through vLLM's plugin entry
point, or not at all. An independent count of captures is made by a wrapper round
`torch.cuda.CUDAGraph.capture_end`, put in place before vLLM is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 1024,
    "max_position_embeddings": 1024,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("result", type=Path)
    parser.add_argument("--runner", choices=["v1", "v2"], required=True)
    parser.add_argument("--mode", required=True)
    parser.add_argument("--sizes", default="1,2,4,8")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--compile", type=int, help="vLLM's compilation mode; 3 for the PIECEWISE modes")
    parser.add_argument("--kv-mib", type=int, help="a fixed KV cache: vLLM then profiles no memory")
    parser.add_argument("--traces-endpoint", help="--otlp-traces-endpoint of vLLM")
    return parser.parse_args(given)


def count_ends(counts: dict[str, int]) -> None:
    import torch

    stock = torch.cuda.CUDAGraph.capture_end

    def capture_end(graph: torch.cuda.CUDAGraph) -> None:
        stock(graph)
        counts["capture_end_returned"] += 1

    torch.cuda.CUDAGraph.capture_end = capture_end  # type: ignore[method-assign]


def model_folder(layers: int) -> str:
    folder = Path(tempfile.mkdtemp(prefix="tiny-llama-"))
    (folder / "config.json").write_text(json.dumps({**MODEL, "num_hidden_layers": layers}))
    return str(folder)


def engine_arguments(asked: argparse.Namespace) -> dict[str, object]:
    compile_mode = asked.compile
    if compile_mode is None:
        compile_mode = 3 if "PIECEWISE" in asked.mode else 0
    compilation: dict[str, object] = {"mode": compile_mode, "cudagraph_mode": asked.mode}
    if compile_mode == 3:
        compilation["backend"] = "eager"
    if asked.mode != "NONE":
        compilation["cudagraph_capture_sizes"] = [int(size) for size in asked.sizes.split(",")]
    found: dict[str, object] = {
        "model": model_folder(asked.layers),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "dtype": "bfloat16",
        "max_model_len": 512,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 512,
        "gpu_memory_utilization": 0.3,
        "seed": 0,
        "compilation_config": compilation,
        "enable_prefix_caching": False,
        "attention_config": {"backend": "TRITON_ATTN"},
    }
    if asked.kv_mib:
        found["kv_cache_memory_bytes"] = asked.kv_mib << 20
    if asked.traces_endpoint:
        found["otlp_traces_endpoint"] = asked.traces_endpoint
        found["disable_log_stats"] = False  # vLLM's request spans are made of its statistics
    return found


def main() -> None:
    asked = arguments()
    for name, value in {
        **SETTINGS,
        "VLLM_USE_V2_MODEL_RUNNER": "1" if asked.runner == "v2" else "0",
    }.items():
        os.environ.setdefault(name, value)
    counts = {"capture_end_returned": 0}
    count_ends(counts)

    import torch
    import vllm
    from vllm import LLM, SamplingParams
    from vllm.compilation.counter import compilation_counter

    started = time.perf_counter()
    engine = LLM(**engine_arguments(asked))
    initialised_s = time.perf_counter() - started
    after_start = dict(counts)
    sampling = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True, detokenize=False)
    answers = engine.generate([{"prompt_token_ids": [1, 2, 3, 4]}], sampling, use_tqdm=False)
    result = {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name(),
        "runner": asked.runner,
        "mode": asked.mode,
        "num_gpu_runner_capture_triggers": compilation_counter.num_gpu_runner_capture_triggers,
        "num_cudagraph_captured": compilation_counter.num_cudagraph_captured,
        **after_start,
        "tokens": list(answers[0].outputs[0].token_ids),
        "initialised_s": round(initialised_s, 3),
    }
    asked.result.write_text(json.dumps(result, indent=1) + "\n")
    shutdown = getattr(engine.llm_engine.engine_core, "shutdown", None)
    if shutdown is not None:
        shutdown()


if __name__ == "__main__":  # a spawned engine core imports this file again
    main()
    sys.stdout.flush()
