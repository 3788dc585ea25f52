"""How fast graftlm is beside what people would use instead: `python -m benchmarks.speed` (see `__main__`)."""
