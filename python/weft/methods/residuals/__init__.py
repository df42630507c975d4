"""Personalized Residuals: concepts as low-rank residuals of projections, each where it should act (LAG)."""

from weft._names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, __file__)
