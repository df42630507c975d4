"""PowerPaint: inpainting tasks chosen by learnt prompts (v1) or by a branch beside the UNet (v2)."""

from weft._names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, __file__)
