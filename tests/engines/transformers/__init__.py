"""The call structure of transformers' continuous batching, on the CPU stand-in: captures while it serves."""
