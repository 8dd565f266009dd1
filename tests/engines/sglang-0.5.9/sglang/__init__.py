"""The call structure of SGLang's captures up to 0.5.13, on the CPU stand-in: runners that capture batches."""
