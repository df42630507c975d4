"""Everything that needs a GPU, in one command: ``python -m benchmarks.gpu``; ``--dry-run`` does what needs none."""
