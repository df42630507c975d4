"""One file, or one package, an op or method: its shapes, modes and providers, as data for ``benchmarks.registry``."""
