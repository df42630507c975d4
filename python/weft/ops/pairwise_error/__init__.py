"""Mean squared errors of every row with every column."""

from weft._names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, __file__)
