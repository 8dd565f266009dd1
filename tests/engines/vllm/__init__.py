"""The call structure of vLLM's captures, on the CPU stand-in: who calls whom, under the real names."""
