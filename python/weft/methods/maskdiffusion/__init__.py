"""MaskDiffusion: every object of a prompt keeps to its own region."""

from weft._names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, __file__)
