"""What a word looks at: attention maps of tokens, read while the model runs."""

from weft._names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, __file__)
