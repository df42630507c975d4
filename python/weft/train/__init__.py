"""Training: one loop, one way to keep and resume a run, and a ``fit_*`` for each thing that can be learnt."""

from weft._names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, __file__)
