"""The call structure of SGLang's captures from 0.5.14 on, on the CPU stand-in: shapes, and backends."""
