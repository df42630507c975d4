"""Whether all objects are there, each in its colour, with MaskDiffusion and without."""
