"""One file an op: its shapes, modes and providers, as data for ``benchmarks.registry``."""
