"""A small model runner that captures CUDA graphs for real and tells what it does over OTLP."""
