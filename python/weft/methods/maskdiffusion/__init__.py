"""MaskDiffusion: every object of a prompt keeps to its own region."""
