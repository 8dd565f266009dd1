from types import SimpleNamespace

compilation_counter = SimpleNamespace(num_gpu_runner_capture_triggers=0, num_cudagraph_captured=0)
