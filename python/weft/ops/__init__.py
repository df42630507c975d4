"""The public functions. Each module holds one op: its contract, checks, choice of backend and registration."""

from weft._names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, __file__)
