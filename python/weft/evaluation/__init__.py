"""How good drawn images are: distances between sets, retrieval, captions read back, consistency and diversity.

Names are looked up on first use. Nothing here downloads anything, and torchmetrics is imported when it is needed.
"""

from weft._names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, __file__)
