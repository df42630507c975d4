"""The embedded default: a small world of coloured shapes, a reader of its images, and a real model of it.

Names are looked up on first use, so importing this package loads neither torch nor diffusers.
"""

from weft._names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, __file__)
