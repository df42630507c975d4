"""One contrastive loss: rows, columns, positives, exclusions, a temperature."""

from weft._names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, __file__)
