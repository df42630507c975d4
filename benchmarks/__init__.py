"""Speed and memory, measured side by side. Run from the top of the repository: ``python -m benchmarks.run <op>``."""
