"""Text-to-image GANs to compare losses on: two published designs, compact, and how they are trained."""

from weft._names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, __file__)
